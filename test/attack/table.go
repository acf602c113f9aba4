package main

import (
	"fmt"
	"strings"
)

// markdown is the section of the measurements; where says where it was made.
func markdown(rows []*result, where string) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("## Hostile peers\n")
	p("%s. Rows are named after section 1.5.2 of the TUF specification 1.0 (TUF), the threats of the Uptane Standard 2.0 (Uptane), or the sentence of the trust model that they would break.\n", where)
	p("### A captured coordinator against a host\n")
	p("How: a real `fleet-agent`'s code as a process of its own, enrolled over loopback mTLS, runs a good generation; the coordinator has the fleet's CA and none of the keys that sign. The host must name its refusal in its status, and again after it was killed and started anew; its journal (what runs, last-good, highest, refused, trust root) and what its activations wrote must be as before; then an honest coordinator brings the next generation to confirmed. Sent: all that the coordinator sent during the attack. Memory: how much larger the agent's heap ever was than before, and how much the row lets it be. Disk: what was added to the agent's directories.\n")
	p("| attack | listed as | the host says | sent, KiB | memory at its height, KiB | at most | disk, KiB | host unchanged, then recovers |")
	p("| --- | --- | --- | ---: | ---: | ---: | ---: | --- |")
	section(p, rows, "coordinator", "sent", "heap", "heap-bound", "disk")
	p("\n### A captured host against the coordinator\n")
	p("How: a client with an enrolled host's certificate and keys, raw gRPC, against the real coordinator; meanwhile an honest host's next release is published, fetched and confirmed, in the time that is given. Memory: how much larger the heap of the process, attackers included, ever was than before, looked at every 2 ms until that release is confirmed, and how much the row lets it be. Disk: what was added to the state directory, the honest release included.\n")
	p("| attack | listed as | the coordinator says | publish meanwhile, ms | memory at its height, KiB | at most | disk, KiB | other hosts unaffected |")
	p("| --- | --- | --- | ---: | ---: | ---: | ---: | --- |")
	section(p, rows, "host", "meanwhile", "heap", "heap-bound", "disk")
	return b.String()
}

func section(p func(string, ...any), rows []*result, side string, figures ...string) {
	n, bad := 0, 0
	for _, r := range rows {
		if r.attrs["side"] != side {
			continue
		}
		verdict := "yes"
		if n++; r.result != "pass" {
			bad++
			verdict = "**NO**"
		}
		cells := []string{r.attrs["attack"], r.attrs["source"], r.attrs["answer"]}
		for _, f := range figures {
			cells = append(cells, r.attrs[f])
		}
		p("| %s | %s |", strings.Join(cells, " | "), verdict)
	}
	p("\n%d rows, %d violations.", n, bad)
}
