package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// example NAME PROGRAM builds an example plugin's module, as its author would.
// SYSTEM is then what fleet.yaml calls this system.
func example(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: example NAME PROGRAM")
	}
	here, err := os.Getwd()
	ts.Check(err)
	cmd := exec.Command("go", "build", "-o", ts.MkAbs(args[1]), ".") //nolint:noctx // Bounded by the test.
	cmd.Dir = filepath.Join(here, "..", "..", "docs", "examples", args[0])
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	if out, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("building %s: %v\n%s", args[0], err, out)
	}
	text := ts.ReadFile("fleet/fleet.yaml")
	text = strings.ReplaceAll(text, "SYSTEM", runtime.GOOS+"/"+runtime.GOARCH)
	ts.Check(os.WriteFile(ts.MkAbs("fleet/fleet.yaml"), []byte(text), 0o600))
}

// certificate FILE DAYS makes one that is good for so many days.
func certificate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: certificate FILE DAYS")
	}
	days, err := strconv.Atoi(args[1])
	ts.Check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 0, days)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
}
