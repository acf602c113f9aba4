package e2e

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"
	"github.com/rogpeppe/go-internal/testscript"
)

// sshAgent starts OpenSSH's ssh-agent and names its socket in SSH_AUTH_SOCK;
// what asks whether a key may be used is the program SSH_ASKPASS of now.
func sshAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: ssh-agent")
	}
	for _, program := range []string{"ssh-agent", "ssh-add", "ssh-keygen"} {
		if _, err := lookPath(ts, program); err != nil {
			ts.Fatalf("%s is not installed: install openssh-client", program)
		}
	}
	socket := filepath.Join(ts.Getenv("RUN"), "ssh")
	ts.Setenv("SSH_AUTH_SOCK", socket)
	// Providers of security keys are the script's own.
	running(ts).start(ts, "ssh-agent", "ssh-agent", "-D", "-a", socket, "-P", ts.MkAbs("*"))
	// Between making the socket and listening on it the agent refuses connections.
	for range 200 {
		if conn, err := net.Dial("unix", socket); err == nil { //nolint:noctx // It connects or fails at once.
			ts.Check(conn.Close())
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("ssh-agent does not listen:\n%s", ts.ReadFile("ssh-agent.log"))
}

// securityKey FILE builds the provider of a FIDO key in software, for ssh-keygen and
// ssh-add.
func securityKey(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: security-key FILE")
	}
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", ts.MkAbs(args[0]), "./securitykey") //nolint:noctx,gosec // Bounded by the test; the script's own words.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("building a security key, which needs a C compiler: %v\n%s", err, out)
	}
}

// tokenName names the plugin age-plugin-token, and its stanzas.
const tokenName = "token"

// token is an age plugin, as one for a hardware token would be: what is encrypted
// to it opens with a touch, while the token is there, which is a file "token" in
// HOME. "age-plugin-token generate FILE" makes a key in FILE and prints its
// recipient.
func token() int {
	if len(os.Args) == 3 && os.Args[1] == "generate" {
		return generateToken(os.Args[2])
	}
	p, err := plugin.New(tokenName)
	if err != nil {
		return failed(err)
	}
	p.HandleRecipient(func(data []byte) (age.Recipient, error) {
		r, err := age.ParseX25519Recipient(string(data))
		return tokenRecipient{r}, err
	})
	p.HandleIdentity(func(data []byte) (age.Identity, error) {
		id, err := age.ParseX25519Identity(string(data))
		return &tokenIdentity{p, id}, err
	})
	p.RegisterFlags(nil)
	flag.Parse()
	return p.Main()
}

func generateToken(file string) int {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return failed(err)
	}
	if err := os.WriteFile(file, []byte(plugin.EncodeIdentity(tokenName, []byte(id.String()))+"\n"), 0o600); err != nil {
		return failed(err)
	}
	fmt.Println(plugin.EncodeRecipient(tokenName, []byte(id.Recipient().String())))
	return 0
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

type tokenRecipient struct{ age.Recipient }

// Wrap makes a stanza that no other identity takes for its own.
func (r tokenRecipient) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	stanzas, err := r.Recipient.Wrap(fileKey)
	for _, s := range stanzas {
		s.Type = tokenName
	}
	return stanzas, err
}

type tokenIdentity struct {
	plugin *plugin.Plugin
	id     *age.X25519Identity
}

// Unwrap asks for a touch only where a stanza is the token's.
func (t *tokenIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	var own []*age.Stanza
	for _, s := range stanzas {
		if s.Type == tokenName {
			own = append(own, &age.Stanza{Type: "X25519", Args: s.Args, Body: s.Body})
		}
	}
	if len(own) == 0 {
		return nil, age.ErrIncorrectIdentity
	}
	if _, err := os.Stat(filepath.Join(os.Getenv("HOME"), "token")); err != nil {
		return nil, errors.New("the token is not plugged in")
	}
	if err := t.plugin.DisplayMessage("touch the token"); err != nil {
		return nil, err
	}
	return t.id.Unwrap(own)
}

// unseal IDENTITIES FILE OUT decrypts a file, as age -d -i IDENTITIES -o OUT FILE does.
func unseal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: unseal IDENTITIES FILE OUT")
	}
	identities, err := age.ParseIdentities(strings.NewReader(ts.ReadFile(args[0])))
	ts.Check(err)
	file := ts.ReadFile(args[1])
	sealed := io.Reader(strings.NewReader(file))
	if strings.HasPrefix(file, armor.Header) {
		sealed = armor.NewReader(sealed)
	}
	plain, err := age.Decrypt(sealed, identities...)
	ts.Check(err)
	text, err := io.ReadAll(plain)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), text, 0o600))
}
