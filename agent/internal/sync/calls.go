package sync

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc"

	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/pkg/countcodec"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// Bounds on an answer: each entry costs work before its signature can be found
// wanting.
const (
	// maxLoosenings is more than a coordinator lets wait for one machine.
	maxLoosenings = 64
	// maxRoots is the length of the longest chain that a host keeps.
	maxRoots = 10_000
	// maxUnknown is more than the profiles of a host can have unknown
	// generations: four of each.
	maxUnknown = 8 * fleet.MaxProfiles
	// maxCertificates is more than come with a renewal.
	maxCertificates = 64
)

// ErrAnswer is wrapped by errors about an answer that no honest coordinator
// gives. It changes nothing.
var ErrAnswer = errors.New("coordinator's answer is out of bounds")

// Desired is what the coordinator desires of this host, unverified.
type Desired struct {
	Roots      [][]byte
	Offers     []desired.Offer
	Loosenings [][]byte
	// Freshness is a freshness statement; empty for none.
	Freshness []byte
	// LogHead is a head of the coordinator's event log, as it says; zero for none.
	LogHead fleet.LogHead
}

// maxAnswerFields is all that an answer may have together.
const maxAnswerFields = fleet.MaxProfiles + maxLoosenings + maxRoots + 2

// GetDesired asks what is desired; rootVersion is that of the newest trust
// root here, 0 for none.
func (c *Client) GetDesired(ctx context.Context, rootVersion uint64) (Desired, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var d Desired
	err := c.do(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		codec := countcodec.New(maxAnswerFields)
		m, err := fleetv1.NewHostServiceClient(conn).GetDesired(ctx,
			&fleetv1.GetDesiredRequest{RootVersion: rootVersion}, withRoots(), grpc.ForceCodecV2(codec))
		if err := codec.Err(); err != nil {
			return fmt.Errorf("%w: %w", ErrAnswer, err)
		}
		if err != nil {
			return err //nolint:wrapcheck // explain wants it as it is.
		}
		d, err = desiredOf(m)
		return err
	})
	if err != nil {
		return Desired{}, fmt.Errorf("asking what is desired: %w", err)
	}
	return d, nil
}

func desiredOf(m *fleetv1.GetDesiredResponse) (Desired, error) {
	for _, c := range []struct {
		what      string
		got, most int
	}{
		{"profiles", len(m.GetProfiles()), fleet.MaxProfiles},
		{"loosenings", len(m.GetLoosenings()), maxLoosenings},
		{"trust roots", len(m.GetRoots()), maxRoots},
	} {
		if c.got > c.most {
			return Desired{}, fmt.Errorf("%w: %d %s, at most %d", ErrAnswer, c.got, c.what, c.most)
		}
	}
	d := Desired{Roots: m.GetRoots(), Loosenings: m.GetLoosenings(), Freshness: m.GetFreshness()}
	if h := m.GetLogHead(); h != nil {
		d.LogHead = fleet.LogHead{Seq: h.GetSeq(), Hash: h.GetHash()}
		if err := d.LogHead.Validate(); err != nil {
			return Desired{}, fmt.Errorf("%w: %w", ErrAnswer, err)
		}
	}
	for _, p := range m.GetProfiles() {
		name, err := fleet.ParseProfileName(p.GetProfile())
		if err != nil {
			return Desired{}, fmt.Errorf("%w: %w", ErrAnswer, err)
		}
		o := desired.Offer{Profile: name, Newest: documentOf(p.GetNewest())}
		if r := p.GetRevert(); r != nil {
			back := documentOf(r)
			o.Revert = &back
		}
		d.Offers = append(d.Offers, o)
	}
	return d, nil
}

func documentOf(m *fleetv1.SignedGeneration) desired.Document {
	return desired.Document{Generation: m.GetGeneration(), Secrets: m.GetSecrets()}
}

// Ack is the coordinator's answer to a report.
type Ack struct {
	// Seq of the newest transition that is durable at the coordinator.
	Seq uint64
	// Unknown generations that the next report should attach.
	Unknown []fleet.Digest
}

// Report is a signed report with what goes along.
type Report struct {
	Envelope []byte
	// HostKeys and their MAC, for a coordinator that does not know them.
	HostKeys, HostKeysMAC []byte
	// Accepted documents that the coordinator asked for.
	Accepted []desired.Document
}

// Report delivers a report over the shared connection.
func (c *Client) Report(ctx context.Context, r Report) (Ack, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var ack Ack
	err := c.do(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		ack, err = report(ctx, conn, r)
		return err
	})
	if err != nil {
		return Ack{}, fmt.Errorf("reporting: %w", err)
	}
	return ack, nil
}

// Reach delivers a report over a connection of its own, opened now: what it
// proves, no connection from before an activation can.
func (c *Client) Reach(ctx context.Context, r Report) (Ack, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c.mu.Lock()
	first := c.first
	c.mu.Unlock()
	conn, err := dial(from(c.config.Addresses, first), c.config.TLS, c.config.Dial)
	if err != nil {
		return Ack{}, err
	}
	ack, err := report(ctx, conn, r)
	err = explain(ctx, err)
	if cerr := conn.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("closing connection: %w", cerr)
	}
	if err != nil {
		return Ack{}, fmt.Errorf("reaching the coordinator anew: %w", err)
	}
	return ack, nil
}

func report(ctx context.Context, conn *grpc.ClientConn, r Report) (Ack, error) {
	req := &fleetv1.ReportRequest{Report: r.Envelope, HostKeys: r.HostKeys, HostKeysMac: r.HostKeysMAC}
	for _, d := range r.Accepted {
		req.Accepted = append(req.Accepted, &fleetv1.SignedGeneration{Generation: d.Generation, Secrets: d.Secrets})
	}
	codec := countcodec.New(maxUnknown)
	m, err := fleetv1.NewHostServiceClient(conn).Report(ctx, req, grpc.ForceCodecV2(codec))
	if err := codec.Err(); err != nil {
		return Ack{}, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	if err != nil {
		return Ack{}, err //nolint:wrapcheck // explain wants it as it is.
	}
	ack := Ack{Seq: m.GetAckedSeq()}
	for _, u := range m.GetUnknownGenerations() {
		if d, err := fleet.ParseDigest(u); err == nil && len(ack.Unknown) < fleet.MaxProfiles {
			ack.Unknown = append(ack.Unknown, d)
		}
	}
	return ack, nil
}

// Renewed is a new certificate with the CAs to trust from now on, in DER.
type Renewed struct {
	Certificate []byte
	CAs         [][]byte
}

// Renew exchanges the host's certificate over the same key.
func (c *Client) Renew(ctx context.Context, csr []byte) (Renewed, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var n Renewed
	err := c.do(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		codec := countcodec.New(maxCertificates)
		m, err := fleetv1.NewHostServiceClient(conn).Renew(ctx, &fleetv1.RenewRequest{Csr: csr}, grpc.ForceCodecV2(codec))
		if err := codec.Err(); err != nil {
			return fmt.Errorf("%w: %w", ErrAnswer, err)
		}
		n = Renewed{Certificate: m.GetCertificate(), CAs: m.GetCa()}
		return err //nolint:wrapcheck // explain wants it as it is.
	})
	if err != nil {
		return Renewed{}, fmt.Errorf("renewing host identity: %w", err)
	}
	return n, nil
}

// maxStatements is how many freshness statements one call carries.
const maxStatements = 64

// PutFreshness hands freshness statements over.
func (c *Client) PutFreshness(ctx context.Context, statements [][]byte) error {
	for batch := range slices.Chunk(statements, maxStatements) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		err := c.do(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := fleetv1.NewHostServiceClient(conn).PutFreshness(ctx, &fleetv1.PutFreshnessRequest{Statements: batch})
			return err //nolint:wrapcheck // explain wants it as it is.
		})
		cancel()
		if err != nil {
			return fmt.Errorf("handing freshness statements over: %w", err)
		}
	}
	return nil
}
