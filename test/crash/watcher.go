//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"github.com/cameronraysmith/fleet/pkg/pki"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// watcher asks the coordinator how the hosts are: fleetctl status does the same,
// but a process for each look would be most of what a run costs.
type watcher struct {
	conn *grpc.ClientConn
	rpc  fleetv1.OperatorServiceClient
}

func (w *world) watcher() (*watcher, error) {
	ids, err := w.identities()
	if err != nil {
		return nil, err
	}
	dir := w.path("config", "fleet", fleetID)
	sealed, err := os.ReadFile(dir + "/operator.key.age")
	if err != nil {
		return nil, err
	}
	opened, err := pki.OpenKey(sealed, ids...)
	if err != nil {
		return nil, err
	}
	keyPEM, _ := pem.Decode(opened)
	cert, err := certificate(dir + "/operator.crt")
	if err != nil || keyPEM == nil {
		return nil, fmt.Errorf("reading the operator's identity: %w", err)
	}
	key, err := pki.ParseKey(keyPEM.Bytes)
	if err != nil {
		return nil, err
	}
	ca, err := certificate(w.path("fleet", "trust", "ca.crt"))
	if err != nil {
		return nil, err
	}
	own := &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	tc := pki.ClientTLS(pki.ClientConfig{
		Certificate: func() (*tls.Certificate, error) { return own, nil },
		CAs:         func() []*x509.Certificate { return []*x509.Certificate{ca} },
		Fleet:       fleetID, Now: time.Now,
	})
	conn, err := grpc.NewClient("passthrough:///"+w.address, grpc.WithTransportCredentials(credentials.NewTLS(tc)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 30 * time.Millisecond, Multiplier: 1.2, MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: 5 * time.Second,
		}))
	if err != nil {
		return nil, err
	}
	return &watcher{conn: conn, rpc: fleetv1.NewOperatorServiceClient(conn)}, nil
}

func certificate(file string) (*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM", file)
	}
	return x509.ParseCertificate(block.Bytes)
}

func (w *watcher) close() { _ = w.conn.Close() }

// host asks about the machine; nil where the coordinator does not know it.
func (w *watcher) host(ctx context.Context) (*fleetv1.Host, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := w.rpc.ListHosts(ctx, &fleetv1.ListHostsRequest{Machine: machine})
	if err != nil {
		return nil, err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, nil //nolint:nilnil // Not known is an answer.
		}
		if err != nil {
			return nil, err
		}
		if m.GetHost().GetMachine().GetName() == machine {
			return m.GetHost(), nil
		}
	}
}

// look makes a watcher where there is none.
func (w *world) look() (err error) {
	if w.watch == nil {
		w.watch, err = w.watcher()
	}
	return err
}

// pollPause is between two looks.
const pollPause = 40 * time.Millisecond

// until polls until what is asked for is so; otherwise it says what is not.
func (w *world) until(ctx context.Context, holds func(*fleetv1.Host) error) error {
	for {
		var h *fleetv1.Host
		err := w.look()
		switch {
		case err == nil:
			h, err = w.watch.host(ctx)
		case w.power == nil: // else the disk may be off just now
			return err
		}
		if err == nil {
			err = holds(h)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("does not converge: %w", err)
		case <-time.After(pollPause):
		}
	}
}
