package looks

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// record is a store with one record, of which nothing is asked but reading.
type record struct {
	store.Store
	kv store.KV
}

func (r *record) List(_ context.Context, prefix, after string, _ int) ([]store.KV, error) {
	if strings.HasPrefix(r.kv.Key, prefix) && r.kv.Key > after {
		return []store.KV{r.kv}, nil
	}
	return nil, nil
}

// FuzzStored: whatever became of a record, opening goes on without it, or it has
// a head that a record of the log can have, which hosts and operators are told.
func FuzzStored(f *testing.F) {
	whole, err := encode(look{fleet.LogHead{Seq: 7, Hash: strings.Repeat("0f", 32)}, []byte("{}")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte("null"))
	f.Add([]byte(`{"head":{"seq":0,"hash":""},"envelope":"AA=="}`))
	f.Add([]byte(`{"head":{"seq":18446744073709551615,"hash":"` + strings.Repeat("0F", 32) + `"}}`))
	f.Add([]byte(`{"head":{"seq":1,"hash":"x"},"head":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Open(t.Context(), &record{kv: store.KV{Key: prefix + "ann", Value: data}}, nil, "f", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		shown, newest := l.Shown(), l.Newest()
		if (len(shown) == 0) != newest.IsZero() {
			t.Errorf("%d looks are shown, the newest is %+v", len(shown), newest)
		}
		if newest.IsZero() {
			if string(data) == string(whole) {
				t.Error("a whole record is left out")
			}
			return
		}
		if err := newest.Validate(); err != nil {
			t.Errorf("hosts are told of %+v: %v", newest, err)
		}
		var back look
		if err := json.Unmarshal(data, &back); err != nil || back.Head != newest || string(back.Envelope) != string(shown[0]) {
			t.Errorf("%q is read as %+v and %q: %v", data, newest, shown[0], err)
		}
	})
}
