package plain_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/plain"
	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
)

const sample = `# of a home
token: s3cr3t # inline
empty: ""
"odd: key": "multi
  line"
nested:
    # within
    user: alice
    port: 8022
    ratio: 2.50
    big: 1234567890123
    on: true
    off: false
    nothing: null
    "yes": "no"
    list:
        - one
        # a comment in a list
        - two
        - deep: three
          more: 4
    literal: |
        first
        second
clear_unencrypted:
    text: readable
    number: 17
    float: 1.5
    flag: true
    none: null
`

const sampleJSON = `{"token":"s3cr3t","Token":"another","n":{"i":12345678901,"f":1.25,"b":true,"null":null,"l":["a",{"x":"y"},[1]]},"e":"","c_unencrypted":{"n":3,"s":"x\u003c","b":false}}`

// encrypt has the real sops encrypt a file, by a rule with more lines.
func encrypt(t testing.TB, name, content string, to []string, more ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	rules := "creation_rules:\n    - age: " + strings.Join(to, ",") + "\n" + strings.Join(more, "")
	if err := os.WriteFile(filepath.Join(dir, ".sops.yaml"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	out, stderr, err := sopstest.Run(t, dir, "", nil, "encrypt", file)
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	return out
}

func decrypt(t testing.TB, name string, data []byte, k sopstest.Key) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, stderr, err := sopstest.Run(t, filepath.Dir(file), k.Private, nil, "decrypt", file)
	if err != nil {
		t.Fatalf("sops does not open it: %v\n%s\n%s", err, stderr, data)
	}
	return string(out)
}

func parse(t testing.TB, name string, data []byte) *plain.File {
	t.Helper()
	format, err := plain.FormatOf(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := plain.Parse(data, format)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func texts(leaves []plain.Leaf) string {
	var lines []string
	for _, l := range leaves {
		line := strings.Join(l.Path, ".") + "=" + l.Value + ":" + l.Type
		if l.Clear {
			line += " clear"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// TestRealFiles: files that the real sops encrypts are read and re-keyed; it reads what comes
// of that, with all values and comments.
func TestRealFiles(t *testing.T) {
	a, b, c := sopstest.NewKey(t), sopstest.NewKey(t), sopstest.NewKey(t)
	for what, tt := range map[string]struct {
		name, content string
		rule          []string
		has           []string
	}{
		"yaml": {"home.yaml", sample, nil, []string{
			"token=s3cr3t:str\nempty=:str\nodd: key=multi line:str\nnested.user=alice:str\nnested.port=8022:int\nnested.ratio=2.5:float",
			"nested.on=True:bool\nnested.off=False:bool\nnested.yes=no:str", "nested.list=one:str\nnested.list=two:str\nnested.list.deep=three:str",
			"nested.literal=first\nsecond\n:str", "clear_unencrypted.text=readable:str clear", "clear_unencrypted.number=17:int clear",
		}},
		"yaml, some by name":   {"home.yaml", sample, []string{"      encrypted_regex: ^(token|list)$\n"}, []string{"token=s3cr3t:str\n", "nested.port=8022:int clear", "nested.on=True:bool clear"}},
		"yaml, some not":       {"home.yaml", sample, []string{"      unencrypted_regex: ^nested$\n"}, []string{"token=s3cr3t:str\n", "nested.ratio=2.5:float clear"}},
		"yaml, by suffix":      {"home.yaml", sample, []string{"      encrypted_suffix: n\n"}, []string{"token=s3cr3t:str\n", "nested.user=alice:str clear"}},
		"yaml, MAC of some":    {"home.yaml", sample, []string{"      mac_only_encrypted: true\n"}, []string{"clear_unencrypted.number=17:int clear"}},
		"yaml, indented by 2":  {"home.yaml", sample, []string{"stores:\n    yaml:\n        indent: 2\n"}, []string{"nested.port=8022:int"}},
		"json":                 {"home.json", sampleJSON, nil, []string{"token=s3cr3t:str\nToken=another:str\nn.i=12345678901:int\nn.f=1.25:float\nn.b=True:bool", "n.l=a:str\nn.l.x=y:str\nn.l=1:int\ne=:str", "c_unencrypted.s=x<:str clear"}},
		"json, MAC of some":    {"home.json", sampleJSON, []string{"      mac_only_encrypted: true\n"}, []string{"token=s3cr3t:str"}},
		"json, only one value": {"home.json", `{"data":"x"}`, nil, []string{"data=x:str"}},
	} {
		t.Run(what, func(t *testing.T) {
			data := encrypt(t, tt.name, tt.content, []string{a.Public, b.Public}, tt.rule...)
			f := parse(t, tt.name, data)
			if got := f.Recipients(); !slices.Equal(got, []string{a.Public, b.Public}) {
				t.Errorf("recipients %q", got)
			}
			leaves, err := f.Decrypt(b.Identity)
			if err != nil {
				t.Fatalf("%v\n%s", err, data)
			}
			for _, want := range tt.has {
				if !strings.Contains(texts(leaves)+"\n", want) {
					t.Errorf("no %q in\n%s", want, texts(leaves))
				}
			}
			if _, err := f.Decrypt(c.Identity); !errors.Is(err, sops.ErrNoIdentity) {
				t.Errorf("a stranger: %v", err)
			}
			if same, err := f.Rewrap(nil, []sops.Recipient{b.Recipient, a.Recipient}); err != nil || same != f {
				t.Errorf("for the same: %v", err)
			}
			again, err := f.Rewrap([]sops.Identity{a.Identity}, []sops.Recipient{c.Recipient, a.Recipient})
			if err != nil {
				t.Fatalf("%v\n%s", err, data)
			}
			if got, want := decrypt(t, tt.name, again.Bytes(), c), decrypt(t, tt.name, data, a); got != want {
				t.Errorf("sops reads other values:\n%s\nwant\n%s", got, want)
			}
			if _, err := parse(t, tt.name, again.Bytes()).Decrypt(b.Identity); !errors.Is(err, sops.ErrNoIdentity) {
				t.Errorf("who was removed: %v", err)
			}
			if strings.HasSuffix(tt.name, ".yaml") { // Outside of sops.age nothing changed.
				before, _, _ := bytes.Cut(data, []byte("age:"))
				_, after, _ := bytes.Cut(data, []byte("lastmodified"))
				if !bytes.HasPrefix(again.Bytes(), before) || !bytes.HasSuffix(again.Bytes(), after) {
					t.Errorf("other bytes changed:\n%s", again.Bytes())
				}
			}
		})
	}
}

func TestRefused(t *testing.T) {
	k := sopstest.NewKey(t)
	good := string(encrypt(t, "home.yaml", "a: one\nb: two\nc_unencrypted: three\n", []string{k.Public}))
	line := func(key string) string {
		for l := range strings.Lines(good) {
			if strings.HasPrefix(l, key+": ") {
				return l
			}
		}
		t.Fatalf("no %s", key)
		return ""
	}
	for name, tt := range map[string]struct {
		doc  string
		is   error
		says string
	}{
		"swapped":             {strings.Replace(strings.Replace(good, line("a"), "a: "+line("b")[3:], 1), line("b"), "b: "+line("a")[3:], 1), sops.ErrTampered, `"a"`},
		"a value less":        {strings.Replace(good, line("b"), "", 1), sops.ErrTampered, "removed"},
		"a value more":        {"x_unencrypted: hi\n" + good, sops.ErrTampered, "added"},
		"another clear value": {strings.Replace(good, "three", "four", 1), sops.ErrTampered, ""},
		"in clear":            {strings.Replace(good, line("a"), "a: one\n", 1), sops.ErrFormat, `"a"`},
		"a number in clear":   {strings.Replace(good, line("a"), "a: 1\n", 1), sops.ErrFormat, "not encrypted"},
		"a key twice":         {good + line("a"), sops.ErrFormat, "twice"},
		"an alias":            {strings.Replace(good, line("a"), "a: &x 1\nd: *x\n", 1), sops.ErrUnsupported, "anchors"},
		"a tag":               {strings.Replace(good, line("a"), "a: !!str 1\n", 1), sops.ErrUnsupported, "tags"},
		"a merge key":         {good + "z:\n    <<: {}\n", sops.ErrUnsupported, "merge"},
		"two documents":       {good + "---\na: 1\n", sops.ErrUnsupported, "several documents"},
		"a time":              {good + "d_unencrypted: 2026-11-23\n", sops.ErrUnsupported, "quote it"},
		"octal":               {good + "d_unencrypted: 0777\n", sops.ErrUnsupported, "quote it"},
		"hex":                 {good + "d_unencrypted: 0x1f\n", sops.ErrUnsupported, "quote it"},
		"a number as key":     {good + "1: x\n", sops.ErrUnsupported, "quote it"},
		"a rule of comments":  {strings.Replace(good, "    mac:", "    encrypted_comment_regex: x\n    mac:", 1), sops.ErrFormat, "only one rule"},
		"no sops":             {"a: 1\n", plain.ErrClear, "not encrypted"},
		"a list":              {"- a\n", sops.ErrFormat, "no map"},
		"nothing":             {"", sops.ErrFormat, "no map"},
		"no YAML":             {"a: [", sops.ErrFormat, ""},
		"no text":             {"a: \xff", sops.ErrFormat, "UTF-8"},
		"deep":                {strings.Repeat("[", 500) + strings.Repeat("]", 500), sops.ErrFormat, "deep"},
		"deep lists":          {strings.Repeat("- ", 5000), sops.ErrFormat, "deep"},
		"large":               {strings.Repeat("#", plain.MaxFile+1), sops.ErrFormat, "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := plain.Parse([]byte(tt.doc), plain.YAML)
			var leaves []plain.Leaf
			if err == nil {
				leaves, err = f.Decrypt(k.Identity)
			}
			if leaves != nil || !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, %v; want %v with %q", leaves, err, tt.is, tt.says)
			}
		})
	}
	for name, part := range map[string]string{"a.env": ".env", "b.ini": ".ini", "c.txt": "updatekeys", "d": "updatekeys"} {
		if _, err := plain.FormatOf(name); !errors.Is(err, sops.ErrUnsupported) || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Where sops.age is not as sops writes it, nothing is damaged: it is refused.
func TestFormThatCannotBeSpliced(t *testing.T) {
	a, b := sopstest.NewKey(t), sopstest.NewKey(t)
	json := encrypt(t, "home.json", `{"a":"x"}`, []string{a.Public})
	f, err := plain.Parse(json, plain.YAML) // JSON is YAML.
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Rewrap([]sops.Identity{a.Identity}, []sops.Recipient{b.Recipient}); !errors.Is(err, sops.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample), true)
	f.Add([]byte(sampleJSON), false)
	f.Add([]byte("a: ENC[AES256_GCM,data:yQ==,iv:AAAA,tag:AAAAAAAAAAAAAAAAAAAAAA==,type:str]\nsops:\n    age: []\n    lastmodified: \"2026-11-23T00:02:06Z\"\n    mac: ENC[AES256_GCM,data:yQ==,iv:AAAA,tag:AAAAAAAAAAAAAAAAAAAAAA==,type:str]\n    version: 3.13.3\n"), true)
	k := sopstest.KeyOf(f, "AGE-SECRET-KEY-1MUTZU92EV2HC73HA7ADDAW7TSZ0DUYEES78D7NK2EU8RPWQFERES945LXP")
	f.Fuzz(func(t *testing.T, data []byte, yaml bool) {
		format := plain.JSON
		if yaml {
			format = plain.YAML
		}
		file, err := plain.Parse(data, format)
		if err != nil {
			return
		}
		if leaves, err := file.Decrypt(k.Identity); err == nil {
			t.Errorf("it opens with a key that it is not for: %v", leaves)
		}
	})
}
