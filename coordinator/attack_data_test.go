package coordinator_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/refusal"
	"github.com/cameronraysmith/fleet/pkg/release"
	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// manifest seals a secrets manifest with one secret.
func (w *world) manifest(m fleet.MachineName, cipher fleet.BlobRef) ([]byte, fleet.Digest) {
	w.t.Helper()
	now := w.clock.now()
	env, digest, err := release.Seal(fleet.TypeSecrets, fleet.SecretsManifest{
		Type: fleet.TypeSecrets, Fleet: fleetID, Machine: m, Profile: fleet.System, Issued: now, Expires: now.Add(time.Hour),
		Entries: []fleet.SecretEntry{{Name: "db", Version: 1, Path: "db", Mode: 0o400, Digest: cipher.Digest, Size: cipher.Size}},
	}, w.secrets)
	check(w.t, err)
	return env, digest
}

// getBlob reads a blob as the attacker.
func (s *siege) getBlob(digest string, offset uint64) error {
	stream, err := s.evil.host.GetBlob(s.t.Context(), &fleetv1.GetBlobRequest{Digest: digest, Offset: offset})
	check(s.t, err)
	for {
		if _, err := stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

const (
	uptaneRead = "Uptane: eavesdrop (read updates)"
	uptaneDoS  = "Uptane: denial of service"
	tufEndless = "TUF, Uptane: endless data"
	tufSlow    = "TUF, Uptane: slow retrieval"
	ownReports = "hosts sign their reports"
	ownOne     = "one identity, one running instance"
)

// hostData are attacks on what belongs to others.
func hostData() []hostAttack {
	blob := func(name string, code codes.Code, reason fleet.ReasonCode, digest func(*siege) (string, uint64)) hostAttack {
		return hostAttack{name: name, source: uptaneRead, code: code, reason: reason, try: func(s *siege) error { return s.getBlob(digest(s)) }}
	}
	rows := []hostAttack{
		blob("another machine's bundle", codes.NotFound, refusal.NotFound, func(s *siege) (string, uint64) { return string(s.blobOf("galena").Digest), 0 }),
		blob("another machine's secret", codes.NotFound, refusal.NotFound, func(s *siege) (string, uint64) { return string(s.secret.Digest), 0 }),
		blob("another machine's secret, from its end on", codes.NotFound, refusal.NotFound, func(s *siege) (string, uint64) { return string(s.secret.Digest), s.secret.Size }),
		blob("a bundle that is not desired any more", codes.NotFound, refusal.NotFound, func(s *siege) (string, uint64) {
			old := s.blobOf("pyrite")
			env, _ := s.generation("pyrite", 2, "own2", s.blobOf("galena"))
			op := s.operator("dana")
			_, err := s.stage(op, "own2", &fleetv1.SignedGeneration{Generation: env})
			check(s.t, err)
			_, err = op.Commit(s.t.Context(), &fleetv1.CommitRequest{Release: "own2", ExpectedHead: "r1", Count: 1})
			check(s.t, err)
			s.head = "own2"
			return string(old.Digest), 0
		}),
		blob("a file in the place of a blob", codes.InvalidArgument, refusal.Malformed, func(*siege) (string, uint64) { return "../../etc/passwd", 0 }),
		blob("an offset beyond the end", codes.InvalidArgument, refusal.Malformed, func(s *siege) (string, uint64) {
			return string(s.blobOf("pyrite").Digest), math.MaxUint64
		}),
		{
			name: "another machine's documents", source: uptaneRead, ignored: "answers are about the caller",
			try: func(s *siege) error {
				d, err := s.evil.host.GetDesired(s.t.Context(), &fleetv1.GetDesiredRequest{RootVersion: math.MaxUint64})
				check(s.t, err)
				for _, p := range d.GetProfiles() {
					g, err := s.root.OpenGeneration(p.GetNewest().GetGeneration())
					check(s.t, err)
					if g.Doc.Machine != "pyrite" {
						s.t.Errorf("it was told of %s", g.Doc.Machine)
					}
				}
				return nil
			},
		},
		{
			name: "a generation of another machine as accepted", source: uptaneRead, ignored: "not adopted, an alarm", alarm: "accepted-generation-invalid",
			try: func(s *siege) error {
				env, _ := s.generation("galena", 7, "r7", s.blobOf("galena"))
				return s.evil.reports(&fleetv1.ReportRequest{Accepted: []*fleetv1.SignedGeneration{{Generation: env}}})
			},
		},
		{
			name: "a generation that nobody signed as accepted", source: ownReports, ignored: "not adopted, an alarm", alarm: "accepted-generation-invalid",
			try: func(s *siege) error {
				return s.evil.reports(&fleetv1.ReportRequest{Accepted: []*fleetv1.SignedGeneration{{Generation: []byte("{}")}, {}}})
			},
		},
		{
			name: "another instance beside the one that runs", source: ownOne, code: codes.FailedPrecondition, reason: fleet.ReasonDuplicate, alarm: "duplicate-instance",
			try: func(s *siege) error {
				s.evil.mustWatch(s.t.Context())
				s.evil.instance = "another"
				_, err := s.evil.watch(s.t.Context())
				return err
			},
		},
		{
			name: "a report of another instance", source: ownOne, code: codes.FailedPrecondition, reason: fleet.ReasonDuplicate, alarm: "duplicate-instance",
			try: func(s *siege) error {
				s.evil.mustWatch(s.t.Context())
				s.evil.instance = "another"
				return s.evil.reports(&fleetv1.ReportRequest{})
			},
		},
		{
			name: "the key of an earlier enrolment", source: "host identity", code: codes.PermissionDenied, reason: refusal.IdentitySuperseded,
			try: func(s *siege) error {
				s.clock.advance(time.Hour)
				check(s.t, s.newAgent("pyrite", "young").enrol(s.join("pyrite")))
				return s.evil.reports(&fleetv1.ReportRequest{})
			},
		},
		{
			name: "a certificate for another key", source: "host identity", code: codes.InvalidArgument, reason: refusal.Malformed,
			try: func(s *siege) error {
				key, err := pki.NewKey()
				check(s.t, err)
				csr, err := pki.NewCSR(key)
				check(s.t, err)
				_, err = s.evil.host.Renew(s.t.Context(), &fleetv1.RenewRequest{Csr: csr})
				return err
			},
		},
		{
			name: "a certificate request of a megabyte", source: tufEndless, code: codes.InvalidArgument, reason: refusal.Malformed,
			try: func(s *siege) error {
				_, err := s.evil.host.Renew(s.t.Context(), &fleetv1.RenewRequest{Csr: make([]byte, 1<<20)})
				return err
			},
		},
		notAllowed("the list of hosts", func(ctx context.Context, c fleetv1.OperatorServiceClient) error {
			s, err := c.ListHosts(ctx, &fleetv1.ListHostsRequest{})
			return recvErr(s, err)
		}),
		notAllowed("everybody's generations", func(ctx context.Context, c fleetv1.OperatorServiceClient) error {
			s, err := c.GetHead(ctx, &fleetv1.GetHeadRequest{})
			return recvErr(s, err)
		}),
		notAllowed("the event log", func(ctx context.Context, c fleetv1.OperatorServiceClient) error {
			s, err := c.WatchEvents(ctx, &fleetv1.WatchEventsRequest{FromSeq: 1, Follow: true})
			return recvErr(s, err)
		}),
		notAllowed("others' keys", func(ctx context.Context, c fleetv1.OperatorServiceClient) error {
			_, err := c.ListHostKeys(ctx, &fleetv1.ListHostKeysRequest{})
			return err
		}),
		notAllowed("a token for another machine", func(ctx context.Context, c fleetv1.OperatorServiceClient) error {
			_, err := c.CreateToken(ctx, &fleetv1.CreateTokenRequest{Machine: "galena", TokenHash: make([]byte, 32), TtlSeconds: 60})
			return err
		}),
		notAllowed("a ban of another machine", func(ctx context.Context, c fleetv1.OperatorServiceClient) error {
			_, err := c.Ban(ctx, &fleetv1.BanRequest{Machine: "galena", Reason: "x"})
			return err
		}),
		notAllowed("a rollback of another machine", func(ctx context.Context, c fleetv1.OperatorServiceClient) error {
			_, err := c.RollBack(ctx, &fleetv1.RollBackRequest{Machine: "galena", Profile: "system"})
			return err
		}),
		notAllowed("an upload", func(ctx context.Context, c fleetv1.OperatorServiceClient) error {
			s, err := c.PutBlob(ctx)
			if err != nil {
				return err
			}
			_, err = s.CloseAndRecv()
			return err
		}),
		notAllowed("a release", func(ctx context.Context, c fleetv1.OperatorServiceClient) error {
			_, err := c.Commit(ctx, &fleetv1.CommitRequest{Release: "evil"})
			return err
		}),
	}
	return rows
}

func recvErr[T any](s grpc.ServerStreamingClient[T], err error) error {
	if err == nil {
		_, err = s.Recv()
	}
	return err
}

// reports delivers a request with an honest report, unless it has one.
func (a *agent) reports(r *fleetv1.ReportRequest) error {
	if r.Report == nil {
		r.Report = a.sealReport(fleet.ProfileStatus{})
	}
	_, err := a.host.Report(a.w.t.Context(), r)
	return err
}

// forge signs any payload as the agent's report.
func (a *agent) forge(payload []byte) []byte {
	a.w.t.Helper()
	env := dsse.Envelope{PayloadType: "application/vnd.fleet.report.v1+json", Payload: base64.StdEncoding.EncodeToString(payload)}
	sig, err := a.report.Sign(dsse.PAE(env.PayloadType, payload))
	check(a.w.t, err)
	env.Signatures = []dsse.Signature{{KeyID: a.report.KeyID(), Sig: base64.StdEncoding.EncodeToString(sig)}}
	b, err := json.Marshal(env)
	check(a.w.t, err)
	return b
}

// hostReports are attacks with reports, which every host may send.
func hostReports() []hostAttack {
	report := func(name string, reason fleet.ReasonCode, change func(*siege, *fleet.Report)) hostAttack {
		return hostAttack{
			name: name, source: ownReports, code: codes.InvalidArgument, reason: reason,
			try: func(s *siege) error {
				r := fleet.Report{
					Type: fleet.TypeReport, Fleet: fleetID, Machine: "pyrite", InstanceID: s.evil.instance, BootID: "b", Time: s.clock.now(), Mode: fleet.ModeManage,
				}
				change(s, &r)
				payload, err := json.Marshal(r)
				check(s.t, err)
				return s.evil.reports(&fleetv1.ReportRequest{Report: s.evil.forge(payload)})
			},
		}
	}
	payload := func(name string, reason fleet.ReasonCode, p string) hostAttack {
		return hostAttack{name: name, source: ownReports, code: codes.InvalidArgument, reason: reason, alarm: "report-refused", try: func(s *siege) error {
			return s.evil.reports(&fleetv1.ReportRequest{Report: s.evil.forge([]byte(p))})
		}}
	}
	transitions := func(seqs ...uint64) func(*siege, *fleet.Report) {
		return func(s *siege, r *fleet.Report) {
			for _, n := range seqs {
				t := s.evil.transition(fleet.StateHeld, fleet.Ref{})
				t.Seq = n
				r.Transitions = append(r.Transitions, t)
			}
		}
	}
	profiles := func(n int, state string) func(*siege, *fleet.Report) {
		return func(_ *siege, r *fleet.Report) {
			for i := range n {
				r.Profiles = append(r.Profiles, fleet.ProfileStatus{Profile: fleet.ProfileName(fmt.Sprintf("home/u%d", i)), State: fleet.State(state)})
			}
		}
	}
	malformed, shape := refusal.Malformed, release.ErrMalformed.Code
	alarmed := func(a hostAttack) hostAttack {
		a.alarm = "report-refused"
		return a
	}
	signedBy := func(name string, key func(*siege) release.Signer) hostAttack {
		return hostAttack{
			name: name, source: ownReports, code: codes.FailedPrecondition, reason: release.ErrUnknownKey.Code, alarm: "report-refused",
			try: func(s *siege) error {
				s.evil.report = key(s)
				return s.evil.reports(&fleetv1.ReportRequest{})
			},
		}
	}
	return []hostAttack{
		report("a report about another machine", malformed, func(_ *siege, r *fleet.Report) { r.Machine = "galena" }),
		report("a report about another fleet", malformed, func(_ *siege, r *fleet.Report) { r.Fleet = "other" }),
		report("a report without an instance", malformed, func(_ *siege, r *fleet.Report) { r.InstanceID = "" }),
		report("a report with an unknown mode", malformed, func(_ *siege, r *fleet.Report) { r.Mode = "obeyed" }),
		report("a report with a state of 100 kilobytes", malformed, profiles(1, strings.Repeat("x", 100<<10))),
		report("a report with control characters in its version", malformed, func(_ *siege, r *fleet.Report) { r.AgentVersion = "\x1b[2J" }),
		report("a pause with a reason of 100 kilobytes", malformed, func(_ *siege, r *fleet.Report) { r.Paused = strings.Repeat("x", 100<<10) }),
		alarmed(report("a report of too many profiles", shape, profiles(fleet.MaxProfiles+1, "idle"))),
		alarmed(report("a report of too many transitions", shape, func(s *siege, r *fleet.Report) {
			for i := range uint64(fleet.MaxTransitions + 1) {
				transitions(i+10)(s, r)
			}
		})),
		report("transitions that count down", malformed, transitions(9, 8)),
		report("one transition twice", malformed, transitions(9, 9)),
		report("a transition of a profile whose name is a path", malformed, func(s *siege, r *fleet.Report) {
			transitions(9)(s, r)
			r.Transitions[0].Profile = "home/../x"
		}),
		payload("a report nested ten thousand deep", shape, `{"x":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)+"}"),
		payload("a report with a field twice", shape, `{"machine":"pyrite","machine":"galena"}`),
		payload("a report that is no JSON", shape, "\xff"),
		{
			name: "a report of a megabyte", source: tufEndless, code: codes.InvalidArgument, reason: malformed,
			try: func(s *siege) error { return s.evil.reports(&fleetv1.ReportRequest{Report: make([]byte, 1<<20)}) },
		},
		{
			name: "a request of 5 megabytes", source: tufEndless, code: codes.ResourceExhausted, reason: errOfGRPC,
			try: func(s *siege) error { return s.evil.reports(&fleetv1.ReportRequest{Report: make([]byte, 5<<20)}) },
		},
		{
			name: "a thousand generations as accepted", source: tufEndless, code: codes.InvalidArgument, reason: malformed,
			try: func(s *siege) error {
				return s.evil.reports(&fleetv1.ReportRequest{Accepted: make([]*fleetv1.SignedGeneration, 1000)})
			},
		},
		signedBy("a report that another host signed", func(s *siege) release.Signer { return s.good.report }),
		signedBy("a report that the release role signed", func(s *siege) release.Signer { return s.release }),
		{
			name: "a report again", source: ownReports + " (replay)", ignored: "taken once",
			try: func(s *siege) error {
				env := s.evil.sealReport(fleet.ProfileStatus{}, s.evil.transition(fleet.StateHeld, fleet.Ref{}))
				check(s.t, s.evil.reports(&fleetv1.ReportRequest{Report: env}))
				before := len(s.events("pyrite"))
				for range 50 {
					check(s.t, s.evil.reports(&fleetv1.ReportRequest{Report: env}))
				}
				if n := len(s.events("pyrite")); n != before {
					s.t.Errorf("%d events more", n-before)
				}
				return nil
			},
		},
		{
			name: "the highest transition number that there is", source: ownReports, ignored: "a gap in the log of that host alone",
			try: func(s *siege) error {
				s.evil.seq = math.MaxUint64 - 1
				return s.evil.reports(&fleetv1.ReportRequest{Report: s.evil.sealReport(fleet.ProfileStatus{}, s.evil.transition(fleet.StateHeld, fleet.Ref{}))})
			},
		},
	}
}
