// Attack runs the tables of hostile peers, and writes what came of each row into
// docs/measurements.md: the rows say what they found through test attributes.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/cameronraysmith/fleet/test/measurements"
)

// tables are where the rows are.
var tables = []string{"./agent/internal/hostile", "./coordinator"}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "attack:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	args := append([]string{"test", "-json", "-count", "1", "-p", "2", "-timeout", "30m", "-run", "^TestHostile(Coordinator|Host)$"}, tables...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	rows, err := read(out)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return fmt.Errorf("running the tables: %w: look at go test %s", err, strings.Join(tables, " "))
	}
	text := markdown(rows, measurements.Where(ctx))
	return measurements.Write(measurements.File, measurements.Section{
		Name: "attacks", Command: "go run ./test/attack", Text: text,
	})
}

// row is what a test said of itself.
type row struct {
	attrs  map[string]string
	result string
}

// event is what go test -json prints of a row.
type event struct {
	Action, Package, Test, Key, Value string
}

// read gathers the rows, in the order in which they began.
func read(r io.Reader) ([]*row, error) {
	byTest := map[string]*row{}
	var rows []*row
	in := bufio.NewScanner(r)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("reading what go test says: %w", err)
		}
		id := e.Package + " " + e.Test
		switch e.Action {
		case "attr":
			if byTest[id] == nil {
				byTest[id] = &row{attrs: map[string]string{}}
				rows = append(rows, byTest[id])
			}
			byTest[id].attrs[e.Key] = e.Value
		case "pass", "fail", "skip":
			if byTest[id] != nil {
				byTest[id].result = e.Action
			}
		}
	}
	return rows, in.Err()
}

func markdown(rows []*row, where string) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("## Hostile peers\n")
	p("%s. Rows are named after section 1.5.2 of the TUF specification 1.0 (TUF), the threats of the Uptane Standard 2.0 (Uptane), or the sentence of the trust model that they would break.\n", where)
	p("### A captured coordinator against a host\n")
	p("How: a real `fleet-agent`'s code as a process of its own, enrolled over loopback mTLS, runs a good generation; the coordinator has the fleet's CA and none of the keys that sign. The host must name its refusal in its status, and again after it was killed and started anew; its journal (what runs, last-good, highest, refused, trust root) and what its activations wrote must be as before; then an honest coordinator brings the next generation to confirmed. Sent: all that the coordinator sent during the attack. Memory: how much larger the agent's heap ever was than before. Disk: what was added to the agent's directories.\n")
	p("| attack | listed as | the host says | sent, KiB | memory, KiB | disk, KiB | host unchanged, then recovers |")
	p("| --- | --- | --- | ---: | ---: | ---: | --- |")
	section(p, rows, "coordinator", "sent", "heap", "disk")
	p("\n### A captured host against the coordinator\n")
	p("How: a client with an enrolled host's certificate and keys, raw gRPC, against the real coordinator; meanwhile an honest host's next release is published, fetched and confirmed, in the time that is given. Memory: what the process has in use afterwards, attackers and calls that still hang included. Disk: what was added to the state directory, the honest release included.\n")
	p("| attack | listed as | the coordinator says | publish meanwhile, ms | memory, KiB | disk, KiB | other hosts unaffected |")
	p("| --- | --- | --- | ---: | ---: | ---: | --- |")
	section(p, rows, "host", "meanwhile", "heap", "disk")
	return b.String()
}

func section(p func(string, ...any), rows []*row, side string, figures ...string) {
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
