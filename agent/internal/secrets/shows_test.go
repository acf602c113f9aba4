package secrets_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/secrets"
)

func TestShows(t *testing.T) {
	root := filepath.Join(t.TempDir(), "secrets")
	if shows, err := secrets.Shows(root, "any text at all"); shows || err != nil {
		t.Errorf("where there are no secrets: %v, %v", shows, err)
	}
	for path, value := range map[string]string{
		"abc/db/env": "DB_USER=app\nDB_PASSWORD=correct horse battery\n", "abc/pin": "1234567", "old/key": "formerly-used",
	} {
		path = filepath.Join(root+".d", path)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte(value), 0o600))
	}
	for text, want := range map[string]bool{
		"":                                false,
		"cannot open the database":        false,
		"bad password correct horse batt": true,
		"e battery":                       true,
		"orse bat":                        true,
		"rse bat":                         false,
		"the pin is 1234567":              false,
		"it was formerly-used before":     true,
		"DB_PASSWORD is not set":          true, // Rather too much than too little.
	} {
		if got, err := secrets.Shows(root, text); got != want || err != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}
