package secrets_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/sops"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// vault makes manifests and remembers their ciphertext.
type vault struct {
	key      *age.X25519Identity
	blobs    map[fleet.Digest][]byte
	manifest fleet.SecretsManifest
}

func newVault(t *testing.T) *vault {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	must(t, err)
	return &vault{key: key, blobs: map[fleet.Digest][]byte{}}
}

func (v *vault) encrypt(t *testing.T, plain string, armored bool) []byte {
	t.Helper()
	var b bytes.Buffer
	var out io.Writer = &b
	var a io.WriteCloser
	if armored {
		a = armor.NewWriter(&b)
		out = a
	}
	w, err := age.Encrypt(out, v.key.Recipient())
	must(t, err)
	_, err = io.WriteString(w, plain)
	must(t, errors.Join(err, w.Close()))
	if a != nil {
		must(t, a.Close())
	}
	return b.Bytes()
}

func (v *vault) add(t *testing.T, path, plain string) *fleet.SecretEntry {
	t.Helper()
	return v.addCipher(path, v.encrypt(t, plain, len(v.manifest.Entries)%2 == 1))
}

func (v *vault) addCipher(path string, cipher []byte) *fleet.SecretEntry {
	digest := fleet.DigestOf(cipher)
	v.blobs[digest] = cipher
	v.manifest.Entries = append(v.manifest.Entries, fleet.SecretEntry{
		Name: fleet.SecretName(fmt.Sprintf("secret-%d", len(v.manifest.Entries))), Version: 1,
		Digest: digest, Size: uint64(len(cipher)), Path: path, Mode: 0o440,
	})
	return &v.manifest.Entries[len(v.manifest.Entries)-1]
}

func (v *vault) open(ref fleet.BlobRef) ([]byte, error) {
	b, ok := v.blobs[ref.Digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return b, nil
}

func digest(s string) fleet.Digest { return fleet.DigestOf([]byte(s)) }

func (v *vault) prepare(t *testing.T, root, manifest string) (string, error) {
	t.Helper()
	return secrets.Prepare(t.Context(), root, v.manifest, digest(manifest), v.open, []age.Identity{v.key})
}

// tree lists names with modes, and content of files.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		all[name] = fi.Mode().String()
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(path) //nolint:gosec // A test's own file.
			if err != nil {
				return err
			}
			all[name] += " " + string(b)
		}
		return nil
	}))
	return all
}

func TestRoundTrip(t *testing.T) {
	v := newVault(t)
	v.add(t, "web/token", "hunter2")
	v.add(t, "web/deep/key", "")
	v.add(t, "top", "two\nlines").Mode = 0
	me, err := user.Current()
	must(t, err)
	e := v.add(t, "mine", "x")
	e.Owner, e.Group, e.Mode = me.Uid, me.Gid, 0o600

	root := filepath.Join(t.TempDir(), "secrets")
	path, err := v.prepare(t, root, "one")
	must(t, err)
	if want := root + ".d/" + digest("one").Short(); path != want || path != secrets.Dir(root, digest("one")) {
		t.Errorf("path is %s, want %s", path, want)
	}
	want := map[string]string{
		".": "drwx--x--x", "web": "drwx--x--x", "web/deep": "drwx--x--x",
		"web/token": "-r--r----- hunter2", "web/deep/key": "-r--r----- ",
		"top": "-r-------- two\nlines", "mine": "-rw------- x",
	}
	if diff := cmp.Diff(want, tree(t, path)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// The link is somebody else's step.
	if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the link is there already: %v", err)
	}
	step := secrets.LinkStep(root, path)
	must(t, driver.Action{Steps: []driver.Step{step}, Deadline: 1}.Validate())
	must(t, atomicfile.Symlink(step.Link.Target, step.Link.Path))
	current, err := secrets.Current(root)
	must(t, err)
	if current != path {
		t.Errorf("link leads to %s", current)
	}

	// Again is the same, and puts right what was altered.
	must(t, os.Chmod(filepath.Join(path, "top"), 0o644)) //nolint:gosec // Damage.
	must(t, os.WriteFile(filepath.Join(path, "mine"), []byte("altered"), 0o600))
	for range 2 {
		again, err := v.prepare(t, root, "one")
		must(t, err)
		if again != path {
			t.Errorf("got %s, then %s", path, again)
		}
		if diff := cmp.Diff(want, tree(t, path)); diff != "" {
			t.Errorf("put right (-want +got):\n%s", diff)
		}
	}
	if got := tree(t, root+".d"); len(got) != len(want)+1 {
		t.Errorf("left beside: %v", got)
	}
}

func TestRefuses(t *testing.T) {
	other := newVault(t)
	for _, c := range []struct {
		name string
		make func(t *testing.T, v *vault)
		want error
	}{
		{"wrong key", func(t *testing.T, v *vault) { v.addCipher("x", other.encrypt(t, "hunter2", false)) }, secrets.ErrDecrypt},
		{"altered byte", func(t *testing.T, v *vault) {
			e := v.add(t, "x", "hunter2")
			b := bytes.Clone(v.blobs[e.Digest])
			b[len(b)-1] ^= 1
			v.blobs[e.Digest] = b
		}, secrets.ErrCiphertext},
		{"altered byte that was signed", func(t *testing.T, v *vault) {
			b := v.encrypt(t, "hunter2", false)
			b[len(b)-1] ^= 1
			v.addCipher("x", b)
		}, secrets.ErrDecrypt},
		{"wrong digest", func(t *testing.T, v *vault) {
			e := v.add(t, "x", "hunter2")
			v.blobs[digest("other")] = v.blobs[e.Digest]
			e.Digest = digest("other")
		}, secrets.ErrCiphertext},
		{"wrong size", func(t *testing.T, v *vault) { v.add(t, "x", "hunter2").Size++ }, secrets.ErrCiphertext},
		{"truncated", func(t *testing.T, v *vault) {
			b := v.encrypt(t, "hunter2", false)
			v.addCipher("x", b[:len(b)-5])
		}, secrets.ErrDecrypt},
		{"truncated header", func(t *testing.T, v *vault) { v.addCipher("x", v.encrypt(t, "hunter2", false)[:30]) }, secrets.ErrDecrypt},
		{"truncated armor", func(t *testing.T, v *vault) {
			b := v.encrypt(t, "hunter2", true)
			v.addCipher("x", b[:len(b)-40])
		}, secrets.ErrDecrypt},
		{"no age file", func(_ *testing.T, v *vault) { v.addCipher("x", []byte("hunter2")) }, secrets.ErrDecrypt},
		{"empty", func(_ *testing.T, v *vault) { v.addCipher("x", nil) }, secrets.ErrDecrypt},
		{"too large", func(t *testing.T, v *vault) {
			v.addCipher("x", v.encrypt(t, string(make([]byte, fleet.MaxSecretBytes+1)), false))
		}, secrets.ErrTooLarge},
		{"ciphertext too large", func(t *testing.T, v *vault) { v.add(t, "x", "").Size = 1 << 40 }, secrets.ErrTooLarge},
		{"too many", func(_ *testing.T, v *vault) {
			v.manifest.Entries = make([]fleet.SecretEntry, fleet.MaxSecrets+1)
		}, secrets.ErrTooLarge},
		{"missing blob", func(t *testing.T, v *vault) { delete(v.blobs, v.add(t, "x", "hunter2").Digest) }, fs.ErrNotExist},
		{"absolute path", func(t *testing.T, v *vault) { v.add(t, "/etc/x", "") }, secrets.ErrPath},
		{"escape", func(t *testing.T, v *vault) { v.add(t, "../x", "") }, secrets.ErrPath},
		{"escape inside", func(t *testing.T, v *vault) { v.add(t, "a/../../x", "") }, secrets.ErrPath},
		{"unclean path", func(t *testing.T, v *vault) { v.add(t, "a//x", "") }, secrets.ErrPath},
		{"no path", func(t *testing.T, v *vault) { v.add(t, "", "") }, secrets.ErrPath},
		{"top", func(t *testing.T, v *vault) { v.add(t, ".", "") }, secrets.ErrPath},
		{"NUL", func(t *testing.T, v *vault) { v.add(t, "a\x00b", "") }, secrets.ErrPath},
		{"path twice", func(t *testing.T, v *vault) { v.add(t, "a", ""); v.add(t, "a", "") }, secrets.ErrPath},
		{"below a secret", func(t *testing.T, v *vault) { v.add(t, "a/b", ""); v.add(t, "a", "") }, secrets.ErrPath},
		{"setuid", func(t *testing.T, v *vault) { v.add(t, "a", "").Mode = 0o4755 }, secrets.ErrMode},
		{"unknown user", func(t *testing.T, v *vault) { v.add(t, "a", "").Owner = "nobody-of-that-name" }, secrets.ErrOwner},
		{"unknown group", func(t *testing.T, v *vault) { v.add(t, "a", "").Group = "no-such-group" }, secrets.ErrOwner},
		{"bad name", func(t *testing.T, v *vault) { v.add(t, "a", "").Name = "../x" }, fleet.ErrName},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVault(t)
			// A good one first, so that there is plaintext to take back.
			v.add(t, "good", "plaintext")
			c.make(t, v)
			dir := t.TempDir()
			path, err := v.prepare(t, filepath.Join(dir, "secrets"), "one")
			if !errors.Is(err, c.want) || path != "" {
				t.Errorf("got %q, %v; want %v", path, err, c.want)
			}
			if err != nil && bytes.Contains([]byte(err.Error()), []byte("hunter2")) {
				t.Errorf("the error tells the secret: %v", err)
			}
			for name := range tree(t, dir) {
				if name != "." && name != "secrets.d" {
					t.Errorf("%s is left behind", name)
				}
			}
		})
	}
}

func TestOwnerOfAnother(t *testing.T) {
	if _, err := user.Lookup("daemon"); err != nil {
		t.Log("no user daemon on this host; unknown users are tested elsewhere")
		return
	}
	v := newVault(t)
	e := v.add(t, "x", "y")
	e.Owner, e.Group = "daemon", "daemon"
	root := filepath.Join(t.TempDir(), "secrets")
	path, err := v.prepare(t, root, "one")
	if os.Geteuid() != 0 {
		if !errors.Is(err, secrets.ErrOwner) {
			t.Errorf("got %v, want %v", err, secrets.ErrOwner)
		}
		return
	}
	must(t, err)
	if mode := tree(t, path)["x"]; mode != "-r--r----- y" {
		t.Errorf("got %s", mode)
	}
}

func TestCancelled(t *testing.T) {
	v := newVault(t)
	v.add(t, "x", "y")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	_, err := secrets.Prepare(ctx, filepath.Join(dir, "secrets"), v.manifest, digest("one"), v.open, []age.Identity{v.key})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got := tree(t, dir); len(got) != 2 {
		t.Errorf("left behind: %v", got)
	}
}

func TestPrune(t *testing.T) {
	v := newVault(t)
	v.add(t, "x", "y")
	root := filepath.Join(t.TempDir(), "secrets")
	must(t, secrets.Prune(root, nil)) // nothing was ever prepared
	paths := map[string]string{}
	for _, m := range []string{"current", "kept", "old"} {
		path, err := v.prepare(t, root, m)
		must(t, err)
		paths[m] = path
	}
	must(t, atomicfile.Symlink(paths["current"], root))
	must(t, os.Mkdir(root+".d/.tmp-crashed", 0o700))
	must(t, secrets.Prune(root, []string{paths["kept"]}))
	entries, err := os.ReadDir(root + ".d")
	must(t, err)
	if len(entries) != 2 {
		t.Errorf("left: %v", entries)
	}
	for _, m := range []string{"current", "kept"} {
		if _, err := os.Stat(filepath.Join(paths[m], "x")); err != nil {
			t.Error(err)
		}
	}
}

// TestDocuments has a machine open what the tree keeps: documents of sops.
func TestDocuments(t *testing.T) {
	v := newVault(t)
	document := func(plain string, to string) []byte {
		r, err := sops.ParseRecipient(to, nil)
		must(t, err)
		d, err := sops.Encrypt([]byte(plain), []sops.Recipient{r}, time.Now())
		must(t, err)
		return d.Bytes()
	}
	mine, stranger := v.key.Recipient().String(), newVault(t).key.Recipient().String()
	good := document("a\x00b\n", mine)
	add := func(path string, cipher []byte) *fleet.SecretEntry {
		e := v.addCipher(path, cipher)
		e.Format = fleet.FormatSops
		return e
	}
	add("vars/per-machine/web/app/token", good)
	add("vars/shared/app/empty", document("", mine))
	v.add(t, "plain", "an age file beside them")
	root := filepath.Join(t.TempDir(), "secrets")
	dir, err := v.prepare(t, root, "one")
	must(t, err)
	for path, want := range map[string]string{"vars/per-machine/web/app/token": "a\x00b\n", "vars/shared/app/empty": "", "plain": "an age file beside them"} {
		if b, err := os.ReadFile(filepath.Join(dir, path)); err != nil || string(b) != want {
			t.Errorf("%s is %q, %v", path, b, err)
		}
	}
	for name, bad := range map[string][]byte{
		"of another machine": document("x", stranger),
		"tampered":           bytes.Replace(good, []byte("data:"), []byte("data:AAAA"), 1),
		"cut short":          good[:len(good)/2],
		"no document":        []byte("{}"),
		"an age file":        v.encrypt(t, "x", true),
	} {
		t.Run(name, func(t *testing.T) {
			before := v.manifest.Entries
			defer func() { v.manifest.Entries = before }()
			v.manifest.Entries = slices.Clone(before)
			add("bad", bad)
			if _, err := v.prepare(t, root, name); !errors.Is(err, secrets.ErrDecrypt) || strings.Contains(err.Error(), "a\x00b") {
				t.Errorf("got %v", err)
			}
		})
	}
}
