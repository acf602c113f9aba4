package hostile

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

const (
	tooMany  = 33
	deepness = 10_000
)

// signedPayload offers a payload that no fleetctl would write, signed all the
// same: by a stolen key, or by a newer version.
func signedPayload(change func(payload []byte) []byte) func(*host) {
	return func(h *host) {
		g := h.make(h.good.ref.Number.Seq+1, "evil").doc
		payload, err := json.Marshal(g)
		check(h.t, err)
		h.coord.Publish(h.sign("generation", change(payload), h.fleet.Release), nil)
	}
}

// unsignedEnvelope offers what is no envelope, or not quite.
func unsignedEnvelope(change func(envelope []byte) []byte) func(*host) {
	return func(h *host) {
		h.coord.Publish(change(h.make(h.good.ref.Number.Seq+1, "evil").envelope), nil)
	}
}

// sign makes an envelope of any payload.
func (h *host) sign(docType string, payload []byte, signers ...release.Signer) []byte {
	h.t.Helper()
	env := dsse.Envelope{
		PayloadType: "application/vnd.fleet." + docType + ".v1+json", Payload: base64.StdEncoding.EncodeToString(payload),
	}
	for _, s := range signers {
		sig, err := s.Sign(dsse.PAE(env.PayloadType, payload))
		check(h.t, err)
		env.Signatures = append(env.Signatures, dsse.Signature{KeyID: s.KeyID(), Sig: base64.StdEncoding.EncodeToString(sig)})
	}
	b, err := json.Marshal(env)
	check(h.t, err)
	return b
}

// with puts one more field in front of an object's.
func with(field string) func([]byte) []byte {
	return func(p []byte) []byte { return append([]byte("{"+field+","), p[1:]...) }
}

func replaced(old, by string) func([]byte) []byte {
	return func(p []byte) []byte {
		if !bytes.Contains(p, []byte(old)) {
			return nil // The row must not pass for lack of what it replaces.
		}
		return bytes.Replace(p, []byte(old), []byte(by), 1)
	}
}

func nested(open, end string) string {
	return strings.Repeat(open, deepness) + "1" + strings.Repeat(end, deepness)
}

// encodings are attacks with the form of documents.
func encodings() []attack {
	malformed := release.ErrMalformed.Code
	signed := func(name string, refusal fleet.ReasonCode, change func([]byte) []byte) attack {
		return attack{name: name, source: ownSigned, refusal: refusal, lie: signedPayload(change)}
	}
	bare := func(name, source string, refusal fleet.ReasonCode, change func([]byte) []byte) attack {
		return attack{name: name, source: source, refusal: refusal, lie: unsignedEnvelope(change)}
	}
	field := func(name string, refusal fleet.ReasonCode, change func(*fleet.Generation)) attack {
		return attack{name: name, source: ownSigned, refusal: refusal, lie: offer(change)}
	}
	return []attack{
		field("a critical field that this version does not know", release.ErrCritical.Code, func(g *fleet.Generation) { g.Critical = []string{"policy.moon"} }),
		field("a probe of an unknown kind", malformed, func(g *fleet.Generation) { g.Probes = []fleet.Probe{{Name: "x", Kind: "oracle"}} }),
		field("an unknown mode", malformed, func(g *fleet.Generation) { g.Policy.Mode = "obey" }),
		field("an unknown answer to what is inconclusive", malformed, func(g *fleet.Generation) { g.Policy.OnInconclusive = "hope" }),
		field("more probes than a generation may have", malformed, func(g *fleet.Generation) { g.Probes = make([]fleet.Probe, fleet.MaxProbes+1) }),
		field("a revert set that is too long", malformed, func(g *fleet.Generation) { g.RevertTo = make([]fleet.Ref, fleet.MaxRevertTo+1) }),
		field("a generation that expires before it is issued", malformed, func(g *fleet.Generation) { g.Expires = g.Issued.Add(-1) }),
		signed("a field twice in a signed document", malformed, with(`"machine":"galena"`)),
		signed("a field twice, in another case", malformed, with(`"Machine":"galena"`)),
		signed("a field twice, in letters that look alike", malformed, with(`"iſsued":"2000-01-01T00:00:00Z"`)),
		signed("objects nested ten thousand deep", malformed, with(`"x":`+nested(`{"a":`, "}"))),
		signed("lists nested ten thousand deep", malformed, with(`"x":`+nested("[", "]"))),
		signed("a number that fits no integer", malformed, replaced(`"seq":4`, `"seq":18446744073709551616`)),
		signed("a negative number", malformed, replaced(`"seq":4`, `"seq":-4`)),
		signed("a text in the place of a number", malformed, replaced(`"seq":4`, `"seq":"4"`)),
		signed("a second document behind the first", malformed, func(p []byte) []byte { return append(p, p...) }),
		signed("a negative deadline", malformed, replaced(`"activation_deadline":"20s"`, `"activation_deadline":"-20s"`)),
		signed("a signed document that is no JSON", malformed, func([]byte) []byte { return []byte("\x00\xff{") }),
		signed("a signed document beyond the limit", release.ErrTooLarge.Code, with(`"x":"`+strings.Repeat("x", fleet.MaxDocumentBytes)+`"`)),
		bare("an envelope of a megabyte", tufEndless, release.ErrTooLarge.Code, func([]byte) []byte { return bytes.Repeat([]byte(" "), 1<<20) }),
		bare("an envelope that ends early", ownSigned, malformed, func(e []byte) []byte { return e[:len(e)/2] }),
		bare("no envelope at all", ownSigned, malformed, func([]byte) []byte { return nil }),
		bare("an envelope with two payloads", ownSigned, malformed, with(`"payload":"e30="`)),
		bare("an envelope nested ten thousand deep", ownSigned, malformed, with(`"x":`+nested("[", "]"))),
		{
			name: "an envelope with too many signatures", source: tufEndless, refusal: release.ErrTooLarge.Code,
			lie: func(h *host) {
				sigs := make([]map[string]string, tooMany)
				for i := range sigs {
					sigs[i] = map[string]string{"keyid": strings.Repeat("0", 8) + string(rune('A'+i)), "sig": ""}
				}
				h.coord.Publish(h.resign(h.make(4, "evil").envelope, sigs...), nil)
			},
		},
	}
}
