package strictjson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

type inner struct {
	Machine string `json:"machine"`
	Number  uint64 `json:"number"`
}

type document struct {
	Release string            `json:"release"`
	Inner   inner             `json:"inner"`
	List    []inner           `json:"list"`
	Free    map[string]string `json:"free"`
}

func TestUnmarshal(t *testing.T) {
	in := "{\n \"release\": \"r1\",\n \"inner\": {\"machine\": \"galena\", \"number\": 18446744073709551615},\n" +
		" \"list\": [{\"machine\": \"a\"}, {\"machine\": \"b\"}],\n \"later\": {\"machine\": 1}\n}\n"
	var got document
	if err := strictjson.Unmarshal([]byte(in), 1000, &got); err != nil {
		t.Fatal(err)
	}
	want := document{
		Release: "r1",
		Inner:   inner{Machine: "galena", Number: 18446744073709551615},
		List:    []inner{{Machine: "a"}, {Machine: "b"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := strictjson.UnmarshalKnown([]byte(in), 1000, &got); err == nil || !strings.Contains(err.Error(), `"later"`) {
		t.Errorf("UnmarshalKnown: got %v, want an error that names the unknown field", err)
	}
}

func TestRefusals(t *testing.T) {
	deep := strings.Repeat(`{"free":`, strictjson.MaxDepth+1) + "1" + strings.Repeat("}", strictjson.MaxDepth+1)
	tests := []struct {
		name, in string
		want     error
		says     string
	}{
		{"empty", "", strictjson.ErrSyntax, "line 1"},
		{"blank", " \n\n", strictjson.ErrSyntax, "ends too early"},
		{"truncated object", "{\"release\":\n\"r1\"", strictjson.ErrSyntax, "line 2"},
		{"truncated text", "{\"release\": \"r", strictjson.ErrSyntax, "ends too early"},
		{"truncated key", "{\"rel", strictjson.ErrSyntax, "ends too early"},
		{"missing value", "{\n\n\"release\":}", strictjson.ErrSyntax, "line 3"},
		{"bare word", "{\"release\": r1}", strictjson.ErrSyntax, "line 1"},
		{"trailing comma", "{\"release\": \"r1\",}", strictjson.ErrSyntax, "line 1"},
		{"NUL", "{\"release\": \"r\x001\"}", strictjson.ErrSyntax, "line 1"},
		{"second value", "{}\n{}", strictjson.ErrSyntax, "line 2"},
		{"garbage behind", "{}\n]", strictjson.ErrSyntax, "after the end"},
		{"wrong type", "{\n\"release\": 1}", strictjson.ErrSyntax, `"release"`},
		{"wrong inner type", "{\"inner\":\n{\"number\": -1}}", strictjson.ErrSyntax, "line 2"},
		{"list for object", "[]", strictjson.ErrSyntax, "got array"},
		{"duplicate", "{\"release\":\"a\",\n\"release\":\"b\"}", strictjson.ErrDuplicate, "line 2"},
		{"duplicate, equal values", `{"release":"a","release":"a"}`, strictjson.ErrDuplicate, "release"},
		{"duplicate, inner", `{"inner":{"machine":"a","machine":"b"}}`, strictjson.ErrDuplicate, "machine"},
		{"duplicate in a list", `{"list":[{"machine":"a"},{"number":1,"number":2}]}`, strictjson.ErrDuplicate, "number"},
		{"duplicate in what nobody reads", `{"later":{"x":[{"y":1,"y":2}]}}`, strictjson.ErrDuplicate, `"y"`},
		{"duplicate, escaped", `{"release":"a","\u0072elease":"b"}`, strictjson.ErrDuplicate, "release"},
		{"duplicate, other case", `{"release":"a","Release":"b"}`, strictjson.ErrDuplicate, "Release"},
		{"duplicate, long s", "{\"release\":\"a\",\"relea\u017fe\":\"b\"}", strictjson.ErrDuplicate, "relea"},
		{"duplicate, Kelvin sign", "{\"k\":1,\"\u212a\":2}", strictjson.ErrDuplicate, ""},
		{"duplicate, long name clipped", `{"` + strings.Repeat("x", 900) + `":1,"` + strings.Repeat("x", 900) + `":2}`, strictjson.ErrDuplicate, "…"},
		{"too deep", deep, strictjson.ErrTooDeep, "64 levels"},
		{"too deep, lists, cut off", strings.Repeat("[", 1500), strictjson.ErrTooDeep, ""},
		{"too large", `{"release":"` + strings.Repeat("a", 2000) + `"}`, strictjson.ErrTooLarge, "at most 2000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := strictjson.Unmarshal([]byte(tt.in), 2000, new(document))
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("got %v, want %v that says %q", err, tt.want, tt.says)
			}
			if len(err.Error()) > 400 {
				t.Errorf("the error repeats %d bytes", len(err.Error()))
			}
		})
	}
}

func TestDeepestAllowed(t *testing.T) {
	in := strings.Repeat("[", strictjson.MaxDepth) + strings.Repeat("]", strictjson.MaxDepth)
	if err := strictjson.Check([]byte(in), len(in)); err != nil {
		t.Fatal(err)
	}
}

func TestCheckLetsCaseDiffer(t *testing.T) {
	if err := strictjson.Check([]byte(`{"a":1,"A":2}`), 100); err != nil {
		t.Errorf("keys that differ in case: %v", err)
	}
	if err := strictjson.Check([]byte(`{"a":1,"a":2}`), 100); !errors.Is(err, strictjson.ErrDuplicate) {
		t.Errorf("equal keys: got %v", err)
	}
}

func TestLine(t *testing.T) {
	data := []byte("a\nb\n\nc")
	for offset, want := range map[int64]int{-5: 1, 0: 1, 1: 1, 2: 2, 4: 3, 5: 4, 6: 4, 99: 4} {
		if got := strictjson.Line(data, offset); got != want {
			t.Errorf("Line(%d) = %d, want %d", offset, got, want)
		}
	}
}

// FuzzUnmarshal holds Unmarshal against encoding/json and a second, naive
// reading: what it accepts, encoding/json accepts too with the same result,
// every object in it has names of which no two fold together, and it survives
// being written and read again.
func FuzzUnmarshal(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"release":"r1","inner":{"machine":"a","number":7},"list":[{"machine":"b"}]}`,
		`{"release":"a","Release":"b"}`, "{\"release\":\"a\",\"relea\u017fe\":\"b\"}", `{"free":{"a":"1","b":"2"}}`,
		`{"later":[[[{"x":null}]]]}`, `[1,2,3]`, `"text"`, `{} {}`, `{"a":`, "\xff\xfe", `{"\ud800":1,"\ud801":2}`, `1e999`, `{"inner":{"number":1e3}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 4096
		var got document
		if err := strictjson.Unmarshal(data, limit, &got); err != nil {
			return
		}
		if len(data) > limit {
			t.Fatalf("accepted %d bytes", len(data))
		}
		var want document
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatalf("encoding/json refuses: %v", err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		if names := folded(t, json.NewDecoder(bytes.NewReader(data))); names != "" {
			t.Fatalf("two names that fold together were accepted: %q", names)
		}
		again, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		var second document
		// Writing may lengthen (escapes), and so may meet the limit.
		if err := strictjson.UnmarshalKnown(again, 100*limit, &second); err != nil {
			t.Fatalf("reading what was written: %v", err)
		}
		if diff := cmp.Diff(got, second); diff != "" {
			t.Fatal(diff)
		}
	})
}

// folded returns a name that occurs twice in one object of d by
// strings.EqualFold, or nothing.
func folded(t *testing.T, d *json.Decoder) string {
	t.Helper()
	d.UseNumber()
	type level struct {
		object bool
		key    bool
		names  []string
	}
	var stack []*level
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := len(stack); n > 0 && stack[n-1].object {
			top := stack[n-1]
			if name, ok := tok.(string); ok && top.key {
				for _, other := range top.names {
					if strings.EqualFold(name, other) {
						return name
					}
				}
				top.names, top.key = append(top.names, name), false
				continue
			}
			top.key = true
		}
		switch tok {
		case json.Delim('{'):
			stack = append(stack, &level{object: true, key: true})
		case json.Delim('['):
			stack = append(stack, &level{})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
		}
	}
}
