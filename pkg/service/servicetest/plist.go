package servicetest

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"howett.net/plist"
)

// PropertyList reads a property list with a parser of property lists, and checks
// that it is well-formed XML with Apple's document type. That is what "plutil
// -lint" says of one; plutil itself is on Macs only.
func PropertyList(t *testing.T, text string) map[string]any {
	t.Helper()
	d, doctype := xml.NewDecoder(strings.NewReader(text)), false
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("no XML: %v\n%s", err, text)
		}
		if dir, ok := tok.(xml.Directive); ok && strings.HasPrefix(string(dir), `DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN"`) {
			doctype = true
		}
	}
	if !doctype {
		t.Error("it does not have the document type of property lists")
	}
	var list map[string]any
	format, err := plist.Unmarshal([]byte(text), &list)
	if err != nil || format != plist.XMLFormat {
		t.Fatalf("no property list: format %d, %v\n%s", format, err, text)
	}
	return list
}
