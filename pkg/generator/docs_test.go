package generator

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of docs/generators.md")

// sample settings for kinds that have no default for all.
var sample = map[string]string{
	"ssh-host-certificate": `{"domains": ["DOMAIN"]}`,
	"ssh-user-certificate": `{"id": "ID", "principals": ["ACCOUNT"]}`,
	"password":             `{"hash": "yescrypt"}`,
	"tls-certificate":      `{"names": ["zt"]}`,
	"zerotier-network":     `{"controller": "machine"}`,
	"zerotier-ip":          `{"machine": "machine", "instance": "INSTANCE"}`,
}

// reference is the part of docs/generators.md that the kinds themselves say.
func reference(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, k := range Kinds() {
		settings := strings.Replace(sample[k.Name], `"DOMAIN"`, `"domain"`, 1)
		g, err := New(k.Name, "machine", []byte(settings))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "\n### %s\n\n%s.", k.Name, strings.ToUpper(k.Summary[:1])+k.Summary[1:])
		if k.Clan != "" {
			fmt.Fprintf(&b, " Clan's `%s`.", k.Clan)
		}
		for _, r := range g.Reads {
			fmt.Fprintf(&b, " Reads `%s/%s`.", strings.ReplaceAll(r.Generator, "machine", "MACHINE"), r.File)
		}
		b.WriteString("\n\n| file | | |\n| --- | --- | --- |\n")
		for _, f := range g.Files {
			words := []string{"public", "goes to machines"}
			if f.Secret {
				words[0] = "secret"
			}
			if !f.Deploy {
				words[1] = "stays with people"
			}
			if f.NeededFor != ForServices {
				words[1] += ", for the phase " + string(f.NeededFor)
			}
			for _, u := range f.RestartUnits {
				words[1] += ", restarts " + u
			}
			fmt.Fprintf(&b, "| `%s` | %s |\n", f.Name, strings.Join(words, " | "))
		}
		if len(k.Settings) > 0 {
			b.WriteString("\n| setting | type | default | |\n| --- | --- | --- | --- |\n")
		}
		for _, s := range k.Settings {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.Name, s.Type, s.Default, s.Doc)
		}
	}
	return b.String() + "\n"
}

func TestDocs(t *testing.T) {
	const file = "../../docs/generators.md"
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- begin kinds -->\n", "<!-- end kinds -->\n"
	head, rest, ok := strings.Cut(string(doc), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no markers", file)
	}
	want := []byte(head + begin + reference(t) + end + tail)
	if *update {
		if err := os.WriteFile(file, want, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(doc, want) {
		t.Errorf("%s is not what the generators say of themselves: run go test ./pkg/generator -run Docs -update", file)
	}
}

func TestSettingsAreDescribed(t *testing.T) {
	for _, k := range Kinds() {
		if k.Summary == "" {
			t.Errorf("%s has no summary", k.Name)
		}
		for _, s := range k.Settings {
			if s.Name == "" || s.Type == "" || s.Doc == "" {
				t.Errorf("%s: %+v is not described", k.Name, s)
			}
		}
	}
}
