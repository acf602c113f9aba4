package zerotier

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/crypto/salsa20/salsa" //nolint:staticcheck // As in the digest.
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// identityVectors are what zerotier-idtool made and said.
type identityVectors struct {
	Vectors []struct {
		Address     string `json:"address"`
		Secret      string `json:"identity_secret"`
		Public      string `json:"identity_public"`
		Message     string `json:"sign_message_utf8"`
		Signature   string `json:"idtool_sign_hex"`
		Digest      string `json:"hardhash_digest_hex"`
		WrongDigits int    `json:"wrong_address_validate_exit"`
	} `json:"vectors"`
	Odd []struct {
		Case     string `json:"case"`
		Text     string `json:"text"`
		Validate int    `json:"validate_exit"`
	} `json:"malformed_or_odd_inputs"`
}

func load[T any](t testing.TB, file string) (v T) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func seeded(n byte) io.Reader { return mathrand.NewChaCha8([32]byte{n}) }

func TestVectorsOfIdtool(t *testing.T) {
	vectors := load[identityVectors](t, "identity-vectors.json").Vectors
	if len(vectors) != 20 {
		t.Fatalf("%d vectors, want 20", len(vectors))
	}
	var d digester // One for all, as a search has it: nothing of a key may stay for the next.
	for _, v := range vectors {
		id, err := ParseIdentity([]byte(v.Secret))
		if err != nil {
			t.Errorf("%s: %v", v.Address, err)
			continue
		}
		if got := id.Address().String(); got != v.Address {
			t.Errorf("address %s, want %s", got, v.Address)
		}
		if got := string(id.Secret()); got != v.Secret {
			t.Errorf("%s: the secret's text came back as another", v.Address)
		}
		if got := id.Public().String(); got != v.Public {
			t.Errorf("public %s, want %s", got, v.Public)
		}
		public, err := ParsePublic([]byte(v.Public))
		if err != nil || public != id.Public() {
			t.Errorf("%s: public half: %v, %v", v.Address, public, err)
		}
		if got := d.digest(&public.key); hex.EncodeToString(got[:]) != v.Digest {
			t.Errorf("%s: digest %x, want %s", v.Address, got, v.Digest)
		}
		signature := id.Sign([]byte(v.Message))
		if hex.EncodeToString(signature) != v.Signature {
			t.Errorf("%s: signature %x, want %s", v.Address, signature, v.Signature)
		}
		if err := public.Verify([]byte(v.Message), signature); err != nil {
			t.Error(err)
		}
		wrong := flip(v.Address[9:])
		if _, err := ParsePublic([]byte(v.Address[:9] + wrong + v.Public[10:])); !errors.Is(err, ErrAddress) || v.WrongDigits != 1 {
			t.Errorf("%s with its last digit %s: got %v, want %v as idtool", v.Address, wrong, err, ErrAddress)
		}
	}
}

func flip(digit string) string {
	if digit == "0" {
		return "1"
	}
	return "0"
}

// Of what idtool was given that is odd, it takes ten; none of them is an
// identity to us, and each has a reason.
func TestOddInputs(t *testing.T) {
	want := map[string]struct {
		err  error
		says string
	}{
		"wrong_private_half (public half of vector 0, private half of vector 1)": {ErrPrivate, "does not belong"},
		"trailing_newline":                   {ErrSyntax, "remove the white space"},
		"leading_space":                      {ErrSyntax, "remove the white space"},
		"trailing_space":                     {ErrSyntax, "remove the white space"},
		"crlf":                               {ErrSyntax, "remove the white space"},
		"uppercase_hex":                      {ErrSyntax, "lower-case"},
		"type_1":                             {ErrSyntax, ":0:"},
		"type_00":                            {ErrSyntax, "271 bytes"},
		"two_fields":                         {ErrSyntax, "12 bytes"},
		"five_fields":                        {ErrSyntax, "273 bytes"},
		"short_public":                       {ErrSyntax, "139 bytes"},
		"long_public":                        {ErrSyntax, "143 bytes"},
		"short_private":                      {ErrSyntax, "268 bytes"},
		"long_private":                       {ErrSyntax, "272 bytes"},
		"address_zero":                       {ErrReserved, "0000000000"},
		"address_ff_prefix":                  {ErrReserved, "ff12345678"},
		"address_9_digits":                   {ErrSyntax, "269 bytes"},
		"address_12_digits_same_low_40_bits": {ErrSyntax, "272 bytes"},
		"public_bit_flip":                    {ErrAddress, "does not belong"},
		"non_hex_public":                     {ErrSyntax, "public key is not 128"},
		"empty":                              {ErrSyntax, "0 bytes"},
	}
	odd := load[identityVectors](t, "identity-vectors.json").Odd
	taken := 0
	for _, o := range odd {
		w, ok := want[o.Case]
		if !ok {
			t.Errorf("no verdict on %q", o.Case)
			continue
		}
		if o.Validate == 0 {
			taken++
		}
		delete(want, o.Case)
		_, err := ParseIdentity([]byte(o.Text))
		if len(o.Text) <= PublicBytes+2 && !strings.Contains(o.Case, "fields") {
			_, err = ParsePublic([]byte(o.Text))
		}
		if !errors.Is(err, w.err) || !strings.Contains(fmt.Sprint(err), w.says) {
			t.Errorf("%s: got %v, want %v that says %q", o.Case, err, w.err, w.says)
		}
	}
	if len(want) != 0 || taken != 9 {
		t.Errorf("left over: %v; idtool takes %d of these, want 9", want, taken)
	}
}

func TestWrongHalfIsNamed(t *testing.T) {
	v := load[identityVectors](t, "identity-vectors.json").Vectors[0]
	for text, wants := range map[string]string{v.Public: "identity.secret is wanted", v.Secret[:PublicBytes] + " " + v.Secret[PublicBytes+1:]: "no colon"} {
		if _, err := ParseIdentity([]byte(text)); !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), wants) {
			t.Errorf("got %v, want %q", err, wants)
		}
	}
	_, err := ParsePublic([]byte(v.Secret))
	if !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), "identity.public is wanted") || strings.Contains(err.Error(), v.Secret[PublicBytes:]) {
		t.Errorf("got %v", err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	vectors := load[identityVectors](t, "identity-vectors.json").Vectors
	id, err := ParseIdentity([]byte(vectors[0].Secret))
	if err != nil {
		t.Fatal(err)
	}
	other, err := ParsePublic([]byte(vectors[1].Public))
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("message")
	good := id.Sign(message)
	if err := other.Verify(message, good); !errors.Is(err, ErrSignature) {
		t.Errorf("another identity's signature: %v", err)
	}
	rapid.Check(t, func(t *rapid.T) {
		bad := bytes.Clone(good)
		bad[rapid.IntRange(0, len(bad)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "with"))
		if err := id.Public().Verify(message, bad); !errors.Is(err, ErrSignature) {
			t.Fatalf("a changed signature: %v", err)
		}
	})
	for _, bad := range [][]byte{nil, good[:95], append(bytes.Clone(good), 0)} {
		if err := id.Public().Verify(message, bad); !errors.Is(err, ErrSignature) {
			t.Errorf("a signature of %d bytes: %v", len(bad), err)
		}
	}
}

// What is found depends on the random bytes only, not on how many processors search.
func TestGenerate(t *testing.T) {
	for seed := range byte(4) {
		var first []byte
		for _, processors := range []int{1, 2, 7} {
			before := runtime.GOMAXPROCS(processors)
			id, err := Generate(t.Context(), seeded(seed))
			runtime.GOMAXPROCS(before)
			if err != nil {
				t.Fatal(err)
			}
			text := id.Secret()
			if back, err := ParseIdentity(text); err != nil || back.Public() != id.Public() {
				t.Errorf("what was made is not read back: %v", err)
			}
			if first == nil {
				first = text
			}
			if !bytes.Equal(first, text) {
				t.Errorf("seed %d: %d processors find %s, one %s", seed, processors, id, first[:10])
			}
		}
	}
}

func TestGenerateEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	if _, err := Generate(ctx, rand.Reader); !errors.Is(err, enough) {
		t.Errorf("got %v, want the context's cause", err)
	}
	if _, err := Generate(t.Context(), strings.NewReader("too short")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want that the random bytes end", err)
	}
}

func TestIdentityIsNotPrinted(t *testing.T) {
	id, err := Generate(t.Context(), seeded(9))
	if err != nil {
		t.Fatal(err)
	}
	secret := string(id.Secret())[PublicBytes+1:]
	type holder struct{ hidden *Identity }
	type valued struct{ hidden Identity }
	var printed strings.Builder
	for _, v := range []any{id, holder{id}, &holder{id}, valued{*id}, []*Identity{id}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			fmt.Fprintf(&printed, verb+"\n", v)
		}
		if b, err := json.Marshal(v); err == nil {
			printed.Write(b)
		}
	}
	slog.New(slog.NewJSONHandler(&printed, nil)).Info("made", "identity", id)
	raw := fmt.Sprintf("%d", id.private.key[:8])
	if s := printed.String(); strings.Contains(s, secret[:16]) || strings.Contains(s, strings.Trim(raw, "[]")) || !strings.Contains(s, id.Address().String()) {
		t.Errorf("printed: %s", s)
	}
	id.Clear()
	if s := string(id.Secret()); !strings.HasSuffix(s, strings.Repeat("0", 2*keyBytes)) {
		t.Error("the private half is still there")
	}
}

func TestAddressesOfMembers(t *testing.T) {
	type vector struct {
		Network  string `json:"nwid"`
		Address  string `json:"address"`
		RFC4193  string `json:"rfc4193"`
		SixPlane string `json:"sixplane"`
		Real     string `json:"real_public_value"`
	}
	file := load[struct {
		Vectors []vector `json:"vectors"`
		Real    []vector `json:"real_public_values"`
	}](t, "ipv6-vectors.json")
	if len(file.Vectors) != 10 || len(file.Real) != 11 {
		t.Fatalf("%d and %d vectors", len(file.Vectors), len(file.Real))
	}
	for _, v := range append(file.Vectors, file.Real...) {
		// Not through the parsers: some are of ids that no network has.
		var n, a uint64
		if _, err := fmt.Sscanf(v.Network+" "+v.Address, "%x %x", &n, &a); err != nil {
			t.Fatal(err)
		}
		if got := NetworkID(n).RFC4193(Address(a)); got.String() != v.RFC4193 || v.Real != "" && got.Addr().String() != v.Real {
			t.Errorf("%s in %s: %s, want %s", v.Address, v.Network, got, v.RFC4193)
		}
		if got := NetworkID(n).SixPlane(Address(a)).String(); got != v.SixPlane {
			t.Errorf("%s in %s: %s, want %s", v.Address, v.Network, got, v.SixPlane)
		}
	}
	for _, v := range file.Real {
		n, err := ParseNetworkID(v.Network)
		if err != nil || n.String() != v.Network {
			t.Errorf("%s: %s, %v", v.Network, n, err)
		}
	}
}

func TestNetworkIDs(t *testing.T) {
	for s, wants := range map[string]string{
		"":                  "sixteen",
		"db4344343b14b90":   "sixteen",
		"db4344343b14b9033": "sixteen",
		"DB4344343B14B903":  "lower-case",
		"db4344343b14b90g":  "lower-case",
		"db4344343b000000":  "six zeros",
		"000000000014b903":  "reserved",
		"ff0000000114b903":  "reserved",
	} {
		if n, err := ParseNetworkID(s); err == nil || !strings.Contains(err.Error(), wants) {
			t.Errorf("%q: %s, %v, want an error with %q", s, n, err, wants)
		}
	}
	controller, err := ParseAddress("db4344343b")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		n, err := NewNetworkID(seeded(rapid.Byte().Draw(t, "seed")), controller)
		if err != nil || n.Controller() != controller {
			t.Fatalf("%s, %v", n, err)
		}
		if back, err := ParseNetworkID(n.String()); err != nil || back != n {
			t.Fatalf("%s came back as %s, %v", n, back, err)
		}
	})
	// Three zeros are drawn again, zeros for ever are an error.
	if n, err := NewNetworkID(bytes.NewReader([]byte{0, 0, 0, 0, 0, 1}), controller); err != nil || n.String() != "db4344343b000001" {
		t.Errorf("%s, %v", n, err)
	}
	if _, err := NewNetworkID(bytes.NewReader(make([]byte, 1000)), controller); err == nil {
		t.Error("zeros for ever made an id")
	}
	if _, err := NewNetworkID(strings.NewReader(""), controller); !errors.Is(err, io.EOF) {
		t.Errorf("no random bytes: %v", err)
	}
	if _, err := NewNetworkID(rand.Reader, 0xff00000000); !errors.Is(err, ErrReserved) {
		t.Errorf("a reserved controller: %v", err)
	}
}

func FuzzParseIdentity(f *testing.F) {
	v := load[identityVectors](f, "identity-vectors.json")
	for _, o := range v.Odd {
		f.Add([]byte(o.Text))
	}
	f.Add([]byte(v.Vectors[0].Secret))
	f.Add([]byte(v.Vectors[0].Public))
	f.Fuzz(func(t *testing.T, text []byte) {
		if id, err := ParseIdentity(text); err == nil && !bytes.Equal(id.Secret(), text) {
			t.Errorf("%q came back as another text", text)
		}
		if p, err := ParsePublic(text); err == nil && p.String() != string(text) {
			t.Errorf("%q came back as %s", text, p)
		}
	})
}

func FuzzParseNetworkID(f *testing.F) {
	for _, s := range []string{"db4344343b14b903", "ff00000001000000", "", "DB4344343b14b903"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseNetworkID(s); err == nil && n.String() != s {
			t.Errorf("%q came back as %s", s, n)
		}
		if a, err := ParseAddress(s); err == nil && a.String() != s {
			t.Errorf("%q came back as %s", s, a)
		}
	})
}

// BenchmarkDigest is what a try of a search costs; BenchmarkStream is what the
// same key stream costs alone.
func BenchmarkDigest(b *testing.B) {
	var d digester
	var key [keyBytes]byte
	for b.Loop() {
		d.digest(&key)
	}
}

func BenchmarkStream(b *testing.B) {
	stream := make([]byte, memoryBytes+memoryWords/2*blockBytes)
	for b.Loop() {
		sum := sha512.Sum512(stream[:keyBytes])
		counter := [16]byte(sum[32:48])
		key := [32]byte(sum[:32])
		salsa.XORKeyStream(stream, stream, &counter, &key)
	}
}

func BenchmarkGenerate(b *testing.B) {
	for b.Loop() {
		if _, err := Generate(b.Context(), rand.Reader); err != nil {
			b.Fatal(err)
		}
	}
}
