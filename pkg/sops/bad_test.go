package sops_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/sops/sopstest"
)

// realRefuses says that the real sops does not give the value of a document either.
func realRefuses(t *testing.T, private string, data []byte, value string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	got, _, err := sopstest.Run(t, filepath.Dir(file), private, nil, "decrypt", "--input-type", "binary", "--output-type", "binary", file)
	if err == nil && string(got) == value {
		t.Error("sops takes it")
	}
}

func TestRefused(t *testing.T) {
	k := sopstest.NewKey(t)
	good := string(encrypt(t, "value", k.Recipient).Bytes())
	other := string(encrypt(t, "other", k.Recipient).Bytes())
	field := func(doc, name string) string {
		_, rest, _ := strings.Cut(doc, "\""+name+"\": ")
		line, _, _ := strings.Cut(rest, "\n")
		return strings.TrimSuffix(line, ",")
	}
	swap := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("no %q in it", from)
		}
		return strings.Replace(good, from, to, 1)
	}
	data, mac := field(good, "data"), field(good, "mac")
	for name, tt := range map[string]struct {
		doc string
		is  error
		// says is a part of the message.
		says string
		// sopsTakes: it is stricter than sops here.
		sopsTakes bool
	}{
		"no JSON":               {"data: x", sops.ErrFormat, "line 1", false},
		"an array":              {"[]", sops.ErrFormat, "an array", false},
		"nothing":               {"", sops.ErrFormat, "ends too early", false},
		"something after it":    {good + "{}", sops.ErrFormat, "after the end", true},
		"cut short":             {good[:len(good)/2], sops.ErrFormat, "line", false},
		"a key more":            {swap("{\n", "{\n\t\"x_unencrypted\": \"hi\",\n"), sops.ErrFormat, "x_unencrypted", false},
		"an empty key more":     {swap("{\n", "{\n\t\"x\": \"\",\n"), sops.ErrFormat, `"x"`, true},
		"data twice":            {swap("{\n", "{\n\t\"data\": "+data+",\n"), sops.ErrFormat, "duplicate", false},
		"mac twice":             {swap("\"mac\": ", "\"mac\": \"\",\n\t\t\"mac\": "), sops.ErrFormat, "duplicate", true},
		"Data":                  {swap("\"data\"", "\"Data\""), sops.ErrFormat, "Data", false},
		"Mac":                   {swap("\"mac\"", "\"Mac\""), sops.ErrFormat, `spelled "mac"`, true},
		"Recipient":             {swap("\"recipient\"", "\"Recipient\""), sops.ErrFormat, `spelled "recipient"`, true},
		"no sops":               {"{\"data\": " + data + "}", sops.ErrFormat, "sops", false},
		"no data":               {swap("\t\"data\": "+data+",\n", ""), sops.ErrFormat, "data", false},
		"data in clear":         {swap(data, `"value"`), sops.ErrFormat, "ENC[", false},
		"data of type int":      {swap(data, strings.Replace(data, "type:str", "type:int", 1)), sops.ErrFormat, "type int", false},
		"data of type nonsense": {swap(data, strings.Replace(data, "type:str", "type:x", 1)), sops.ErrFormat, "type", false},
		"no base64":             {swap(data, strings.Replace(data, "data:", "data:!", 1)), sops.ErrFormat, "base64", false},
		"base64 with newlines":  {swap(data, strings.Replace(data, "iv:", "iv:\\n", 1)), sops.ErrFormat, "iv", true},
		"a short tag":           {swap(data, data[:strings.Index(data, "tag:")]+"tag:AAAA,type:str]\""), sops.ErrFormat, "length", false},
		"data emptied":          {swap(data, `""`), sops.ErrTampered, "changed", false},
		"data of another":       {swap(data, field(other, "data")), sops.ErrTampered, "data", false},
		"MAC of another":        {swap(mac, field(other, "mac")), sops.ErrTampered, "MAC", false},
		"MAC in clear":          {swap(mac, `"00"`), sops.ErrFormat, "mac", false},
		"MAC as data":           {swap(mac, data), sops.ErrTampered, "MAC", false},
		"no MAC":                {swap("\t\t\"mac\": "+mac+",\n", ""), sops.ErrFormat, "mac is missing", false},
		"MAC null":              {swap(mac, "null"), sops.ErrFormat, "null", false},
		"another time":          {swap("2026-11-23T01:02:03Z", "2026-11-23T01:02:04Z"), sops.ErrTampered, "time", false},
		"another zone":          {swap("2026-11-23T01:02:03Z", "2026-11-23T02:02:03+01:00"), sops.ErrTampered, "time", false},
		"no time":               {swap("2026-11-23T01:02:03Z", "yesterday"), sops.ErrFormat, "yesterday", false},
		"another rule":          {swap("\"version\"", "\"encrypted_regex\": \"^x$\",\n\t\t\"version\""), sops.ErrFormat, "not encrypted", false},
		"two rules":             {swap("\"version\"", "\"encrypted_regex\": \"a\",\n\t\t\"encrypted_suffix\": \"a\",\n\t\t\"version\""), sops.ErrFormat, "only one rule", false},
		"a rule of comments":    {swap("\"version\"", "\"encrypted_comment_regex\": \"a\",\n\t\t\"version\""), sops.ErrUnsupported, "encrypted_comment_regex", false},
		"a broken rule":         {swap("\"version\"", "\"encrypted_regex\": \"(\",\n\t\t\"version\""), sops.ErrFormat, "encrypted_regex", false},
		"another kind of MAC":   {swap("\"version\"", "\"mac_only_encrypted\": true,\n\t\t\"version\""), sops.ErrTampered, "", false},
		"key groups":            {swap("\"version\"", "\"key_groups\": [{}],\n\t\t\"version\""), sops.ErrUnsupported, "key_groups", true},
		"no stanzas":            {swap(good[strings.Index(good, "\"age\""):strings.Index(good, "\"lastmodified\"")], ""), sops.ErrNoIdentity, "", false},
		"age no array":          {swap("\"age\": [", "\"age\": {}, \"x\": ["), sops.ErrFormat, "an object, not an array", false},
		"a broken stanza":       {swap("BEGIN AGE", "BEGIN EGA"), sops.ErrNoIdentity, "for \"age1", false},
		"deep":                  {swap("{\n", "{\n\"sops2\": "+strings.Repeat("[", 100)+strings.Repeat("]", 100)+","), sops.ErrFormat, "deep", true},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := sops.Parse([]byte(tt.doc))
			var got []byte
			if err == nil {
				got, err = d.Decrypt(k.Identity)
			}
			if got != nil || !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %q, %v; want %v with %q", got, err, tt.is, tt.says)
			}
			if !tt.sopsTakes {
				realRefuses(t, k.Private, []byte(tt.doc), "value")
			}
		})
	}
	// What is equal though spelled differently.
	for from, to := range map[string]string{
		"2026-11-23T01:02:03Z": "2026-11-23T01:02:03+00:00",
		`"version": "3.13.3"`:  `"version": "3.7.1", "pgp": null, "kms": [], "shamir_threshold": 0, "key_groups": null`,
	} {
		if got, err := parse(t, []byte(swap(from, to))).Decrypt(k.Identity); err != nil || string(got) != "value" {
			t.Errorf("%s: got %q, %v", to, got, err)
		}
	}
}

func TestBounds(t *testing.T) {
	k := sopstest.NewKey(t)
	largest := strings.Repeat("x", sops.MaxValue)
	d := encrypt(t, largest, k.Recipient)
	if got, err := d.Decrypt(k.Identity); err != nil || string(got) != largest {
		t.Errorf("the largest value: got %d bytes, %v", len(got), err)
	}
	if _, err := sops.Encrypt([]byte(largest+"x"), []sops.Recipient{k.Recipient}, now); err == nil || !strings.Contains(err.Error(), "at most 1048576") {
		t.Errorf("one byte more: %v", err)
	}
	if _, err := sops.Encrypt(nil, nil, now); err == nil || !strings.Contains(err.Error(), "name a recipient") {
		t.Errorf("for nobody: %v", err)
	}
	if _, err := sops.Parse(bytes.Repeat([]byte(" "), sops.MaxDocument+1)); !errors.Is(err, sops.ErrFormat) || !strings.Contains(err.Error(), "too large") {
		t.Errorf("a large file: %v", err)
	}
	text := string(encrypt(t, "value", k.Recipient).Bytes())
	from, to := strings.Index(text, "{\n\t\t\t\t\"enc\""), strings.Index(text, "\n\t\t],")
	one := text[from:to]
	many := text[:from] + strings.Repeat(one+",\n", 1024) + text[from:]
	if _, err := sops.Parse([]byte(many)); !errors.Is(err, sops.ErrFormat) || !strings.Contains(err.Error(), "1025 recipients, at most 1024") {
		t.Errorf("many recipients: %v", err)
	}
	big := strings.Replace(text, "-----END", strings.Repeat("A", 64<<10)+"-----END", 1)
	if _, err := sops.Parse([]byte(big)); !errors.Is(err, sops.ErrFormat) || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("a large stanza: %v", err)
	}
}

func TestKeys(t *testing.T) {
	k := sopstest.NewKey(t)
	const yubikey = "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t"
	for text, says := range map[string]string{
		"":                                     "want age1",
		"alice":                                "want age1",
		k.Public + "x":                         "malformed",
		strings.Replace(k.Public, "1", "2", 1): "want age1",
		strings.TrimSpace(k.Private):           "private key",
		"ssh-dss AAAA":                         "ssh-dss",
		"ssh-ed25519 !":                        "ssh-ed25519",
		yubikey:                                "plugin",
	} {
		_, err := sops.ParseRecipient(text, nil)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("public key %q: %v, want %q", text, err, says)
		}
	}
	for text, says := range map[string]string{
		"":                                "no private key",
		"# only a comment\n":              "no private key",
		"\n" + k.Private[:40]:             "line 2",
		k.Public:                          "line 1",
		"AGE-PLUGIN-YUBIKEY-1QQQQ":        "plugin",
		strings.Repeat("#", 1<<20):        "at most",
		"-----BEGIN NONSENSE-----\n":      "malformed",
		"AGE-SECRET-KEY-PQ-1" + "QQQQQQQ": "malformed",
	} {
		_, err := sops.ParseIdentities([]byte(text), nil)
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), k.Private[20:40]) {
			t.Errorf("private keys %.60q: %v, want %q", text, err, says)
		}
	}
	ids, err := sops.ParseIdentities(fmt.Appendf(nil, "# public key: %s\n%s\r\n\n  %s\n", k.Public, k.Private, sopstest.NewKey(t).Private), nil)
	if err != nil || len(ids) != 2 || ids[0].Recipient != k.Public {
		t.Errorf("got %d keys, %v", len(ids), err)
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"text.secret", "empty.secret", "text.updatekeys-admin+other.secret", "bad-extra-key.secret"} {
		f.Add(vector(f, name))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := sops.Parse(data)
		if err != nil {
			return
		}
		// What is written is what was read, and is written the same again.
		again := parse(t, d.Bytes())
		if !bytes.Equal(again.Bytes(), d.Bytes()) || len(again.Recipients()) != len(d.Recipients()) || again.Size() != d.Size() {
			t.Errorf("%q becomes %q, and that %q", data, d.Bytes(), again.Bytes())
		}
	})
}

// Whatever is done to a document, it opens to its value or not at all.
func FuzzDecrypt(f *testing.F) {
	k := sopstest.KeyOf(f, string(vector(f, "identity-admin.txt")))
	for _, name := range []string{"text", "empty", "binary"} {
		f.Add(vector(f, name+".secret"))
	}
	plain := map[string]bool{}
	for _, name := range []string{"text", "empty", "binary"} {
		plain[string(vector(f, name+".plain"))] = true
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := sops.Parse(data)
		if err != nil {
			return
		}
		got, err := d.Decrypt(k.Identity)
		if err == nil && !plain[string(got)] {
			t.Errorf("%q opens to %q", data, got)
		}
	})
}
