package generator

import (
	"fmt"
	"log/slog"
)

// Value is the content of a file, or the answer to a prompt. No way of printing
// it shows any of it, its length included: who wants it asks for Bytes.
type Value struct{ hidden *hidden }

// hidden is behind two pointers from wherever a Value is: fmt looks through one,
// also where it can't call methods.
type hidden struct{ bytes *[]byte }

// NewValue hides b, which is the value's from now on.
func NewValue(b []byte) Value { return Value{&hidden{&b}} }

// Bytes are the value itself, no copy; nil of the zero Value.
func (v Value) Bytes() []byte {
	if v.hidden == nil {
		return nil
	}
	return *v.hidden.bytes
}

// Clear overwrites the value in memory.
func (v Value) Clear() { clear(v.Bytes()) }

// Format prints that something is hidden, whatever the verb.
func (v Value) Format(f fmt.State, _ rune) { fmt.Fprint(f, "(hidden)") }

// LogValue says that something is hidden.
func (v Value) LogValue() slog.Value { return slog.StringValue("(hidden)") }

// Files are the contents of a generator's files, by their names.
type Files map[string]Value

// Clear overwrites all of them in memory.
func (f Files) Clear() {
	for _, v := range f {
		v.Clear()
	}
}
