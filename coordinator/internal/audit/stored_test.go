package audit

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/coordinator/internal/store"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// onlyHead is a store that holds the log's head and no record.
type onlyHead struct {
	store.Store
	value []byte
}

func (o *onlyHead) Get(_ context.Context, key string) (store.KV, error) {
	if key != headKey {
		return store.KV{}, store.ErrNotFound
	}
	return store.KV{Key: key, Value: o.value, Revision: 3}, nil
}

// FuzzHead: whatever became of the head, it is one that a record can have, or the
// log is not opened.
func FuzzHead(f *testing.F) {
	whole, err := json.Marshal(head{Seq: 7, Hash: strings.Repeat("0f", 32)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte("null"))
	f.Add([]byte(`{"seq":1,"hash":"` + strings.Repeat("zz", 32) + `"}`))
	f.Add([]byte(`{"seq":-1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Open(t.Context(), &onlyHead{value: data}, time.Now, slog.New(slog.DiscardHandler)) //nolint:forbidigo // Nothing is written.
		if err != nil {
			if !errors.Is(err, ErrTampered) || string(data) == string(whole) {
				t.Errorf("%q: %v", data, err)
			}
			return
		}
		h, err := l.Head(t.Context())
		if err != nil || fleet.LogHead(h).Validate() != nil {
			t.Errorf("%q is read as %+v: %v", data, h, err)
		}
	})
}
