package service

import (
	"encoding/xml"
	"strings"
	"testing"
)

func TestFill(t *testing.T) {
	const template = "a=@A@\nb=@B@ and @A@\nc=@lower-case c@\n"
	for name, tt := range map[string]struct {
		values     map[string]string
		want, fail string
	}{
		"all":        {values: map[string]string{"A": "1", "B": "2"}, want: "a=1\nb=2 and 1\nc=@lower-case c@\n"},
		"an empty":   {values: map[string]string{"A": "1", "B": ""}, want: "a=1\nc=@lower-case c@\n"},
		"not again":  {values: map[string]string{"A": "@B@", "B": "2"}, want: "a=@B@\nb=2 and @B@\nc=@lower-case c@\n"},
		"a missing":  {values: map[string]string{"A": "1"}, fail: "no value for B"},
		"one more":   {values: map[string]string{"A": "1", "B": "2", "D": "3"}, fail: "no place for D"},
		"two wanted": {values: map[string]string{}, fail: "no value for A"},
	} {
		got, err := Fill(template, tt.values)
		if tt.fail != "" {
			if err == nil || !strings.Contains(err.Error(), tt.fail) {
				t.Errorf("%s: %v, want %q", name, err, tt.fail)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tt.want)
		}
	}
}

func TestUnitArgs(t *testing.T) {
	for in, want := range map[string]string{
		"--a=b":           "--a=b",
		"--listen=[::]:1": "--listen=[::]:1",
		"100%":            `"100%%"`,
		"$HOME":           `"$$HOME"`,
		"two words":       `"two words"`,
		`a"b\c`:           `"a\"b\\c"`,
		"":                `""`,
		"a;b":             `"a;b"`,
		"ü":               `"ü"`,
	} {
		if got := UnitArgs([]string{in}); got != want {
			t.Errorf("%q is %s, want %s", in, got, want)
		}
	}
	if got := UnitArgs([]string{"a", "b c"}); got != `a "b c"` {
		t.Error(got)
	}
}

func TestPlain(t *testing.T) {
	for text, ok := range map[string]bool{"a b%$\"": true, "a\nb": false, "a\x00": false, "\xff": false, "\x7f": false, "": true} {
		if err := Plain("--env", text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		} else if err != nil && !strings.Contains(err.Error(), "--env") {
			t.Errorf("%q: which argument? %v", text, err)
		}
	}
	for path, ok := range map[string]bool{
		"/usr/local/bin/fleet-agent": true, "/srv/a,b@c+d_e-1.2": true, "relative": false, "": false, "/a b": false,
		"/a%b": false, "/a\nb": false, "/ä": false, "/a//b": false, "/a--b": false, "/a:b": false, "/a\"b": false,
	} {
		if err := PlainPath("--program", path); (err == nil) != ok {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestXML(t *testing.T) {
	var got struct {
		Text string `xml:",chardata"`
	}
	const text = `<&> "'`
	if err := xml.Unmarshal([]byte("<a>"+XML(text)+"</a>"), &got); err != nil || got.Text != text {
		t.Errorf("%q, %v", got.Text, err)
	}
}

func TestRecord(t *testing.T) {
	r := Record{Service: "x", Program: "/bin/x", Copied: true, State: "/var/lib/x"}
	for _, text := range []string{"# " + r.String() + "\n[Unit]\n", "<?xml?>\n<!-- " + r.String() + " -->\n"} {
		if got, ok := recordOf("x", text); !ok || got != r {
			t.Errorf("%+v, %v of %q", got, ok, text)
		}
		if _, ok := recordOf("y", text); ok {
			t.Error("it is of another service")
		}
	}
	for _, text := range []string{"", "[Unit]\n", "ExecStart=" + r.String()} {
		if got, ok := recordOf("x", text); ok {
			t.Errorf("%+v of %q", got, text)
		}
	}
}
