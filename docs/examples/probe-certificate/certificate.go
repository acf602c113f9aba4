package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/plugin"
	"github.com/cameronraysmith/fleet/pkg/probe"
)

// maxFileBytes bounds a file with a chain of certificates.
const maxFileBytes = 1 << 20

// config is that of one probe.
type config struct {
	// File has the certificate in PEM, the leaf first.
	File string `json:"file,omitempty"`
	// Address, host:port, serves it over TLS, as Name where that is set.
	Address string `json:"address,omitempty"`
	Name    string `json:"name,omitempty"`
	// Days that it must be good for still; default 7.
	Days float64 `json:"days,omitempty"`
}

// certificate is the probe.
type certificate struct{ now func() time.Time }

// Check implements probe.Probe.
func (p *certificate) Check(ctx context.Context, req probe.Request) (probe.Result, error) {
	c := config{Days: 7}
	if err := plugin.Config(req.Config, &c); err != nil {
		return probe.Result{}, err
	}
	if (c.File == "") == (c.Address == "") {
		return probe.Result{}, errors.New("config needs either a file or an address")
	}
	if c.Days < 0 || c.Days > 10_000 || math.IsNaN(c.Days) {
		return probe.Result{}, fmt.Errorf("config.days is %g: want 0 to 10000", c.Days)
	}
	leaf, err := c.leaf(ctx)
	if err != nil {
		// That there is no certificate is what the probe is there to find out.
		return probe.Result{Verdict: fleet.VerdictFail, Detail: err.Error()}, nil
	}
	left := leaf.NotAfter.Sub(p.now())
	detail := fmt.Sprintf("good until %s, %.1f days", leaf.NotAfter.UTC().Format(time.DateTime), left.Hours()/24)
	switch {
	case p.now().Before(leaf.NotBefore):
		return probe.Result{Verdict: fleet.VerdictFail, Detail: "not good before " + leaf.NotBefore.UTC().Format(time.DateTime)}, nil
	case left.Hours() < c.Days*24:
		return probe.Result{Verdict: fleet.VerdictFail, Detail: fmt.Sprintf("%s; want %g", detail, c.Days)}, nil
	}
	return probe.Result{Verdict: fleet.VerdictPass, Detail: detail}, nil
}

func (c config) leaf(ctx context.Context) (*x509.Certificate, error) {
	if c.File != "" {
		return fromFile(c.File)
	}
	d := tls.Dialer{Config: &tls.Config{
		ServerName: c.Name, MinVersion: tls.VersionTLS12,
		// Whom it is good for is for clients to judge; this is about its time.
		InsecureSkipVerify: true,
	}}
	conn, err := d.DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	t, ok := conn.(*tls.Conn)
	if !ok {
		return nil, errors.New("the connection has no TLS")
	}
	return t.ConnectionState().PeerCertificates[0], nil
}

func fromFile(name string) (*x509.Certificate, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, fmt.Errorf("%s has no certificate in PEM", name)
}
