package ageplugin_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age/plugin"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/ageplugin"
	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
)

func TestPlugin(t *testing.T) {
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./testdata/age-plugin-note")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	public, private := plugin.EncodeRecipient("note", []byte("one")), plugin.EncodeIdentity("note", []byte("one"))
	if _, err := sops.ParseRecipient(public, nil); !errors.Is(err, sops.ErrUnsupported) {
		t.Errorf("without plugins: %v", err)
	}
	plugins := ageplugin.New(nil)
	r, err := sops.ParseRecipient(public, plugins)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := sops.ParseIdentities([]byte("# recipient: "+public+"\n"+private+"\n"), plugins)
	if err != nil || len(ids) != 1 || ids[0].Recipient != public {
		t.Fatalf("got %v, %v", ids, err)
	}
	other := sopstest.NewKey(t)
	d, err := sops.Encrypt([]byte("value"), []sops.Recipient{r, other.Recipient}, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Decrypt(ids...); err != nil || string(got) != "value" {
		t.Errorf("got %q, %v", got, err)
	}
	// The real sops starts the plugin, too, and writes what we read.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), d.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, stderr, err := sopstest.Run(t, dir, private, nil, "decrypt", "--input-type", "binary", "--output-type", "binary", "secret")
	if err != nil || string(got) != "value" {
		t.Errorf("sops says %q, %v\n%s", got, err, stderr)
	}
	data, stderr, err := sopstest.Run(t, dir, "", []byte("theirs"), "encrypt", "--age", public,
		"--input-type", "binary", "--output-type", "binary", "--filename-override", "secret")
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	theirs, err := sops.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := theirs.Decrypt(ids...); err != nil || string(got) != "theirs" {
		t.Errorf("got %q, %v", got, err)
	}

	// Nobody is there to touch it; with somebody there, it opens.
	t.Setenv("NOTE_ASKS", "1")
	if _, err := d.Decrypt(ids...); !errors.Is(err, sops.ErrNoIdentity) || !strings.Contains(err.Error(), "for \""+public) {
		t.Errorf("nobody touches it: %v", err)
	}
	asked := 0
	somebody := ageplugin.New(&plugin.ClientUI{
		Confirm: func(_, prompt, _, _ string) (bool, error) {
			asked++
			return prompt == "touch it", nil
		},
		WaitTimer: func(string) {},
	})
	if ids, err = sops.ParseIdentities([]byte("# recipient: "+public+"\n"+private+"\n"), somebody); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Decrypt(append([]sops.Identity{sopstest.NewKey(t).Identity}, ids...)...); err != nil || string(got) != "value" || asked != 1 {
		t.Errorf("somebody touches it: %q, %v, asked %d times", got, err, asked)
	}

	for text, part := range map[string]string{"age1note1xxx": "public key", "age1no_te1": "public key"} {
		if _, err := sops.ParseRecipient(text, plugins); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := sops.ParseIdentities([]byte("AGE-PLUGIN-NOTE-1QQQQQQQ"), plugins); err == nil || strings.Contains(err.Error(), "QQQQ") {
		t.Errorf("a malformed private key: %v", err)
	}
	// A plugin that is not there is named.
	missing, err := sops.ParseRecipient(plugin.EncodeRecipient("absent", []byte("x")), plugins)
	if err == nil {
		_, err = sops.Encrypt([]byte("x"), []sops.Recipient{missing}, time.Unix(0, 0))
	}
	if err == nil || !strings.Contains(err.Error(), "age-plugin-absent") {
		t.Errorf("a plugin that is not there: %v", err)
	}
}
