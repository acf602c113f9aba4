package release

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// checkCritical refuses a document whose critical list names a field that this
// version does not know. Fields are named by their path, "policy.mode".
func checkCritical[T any](critical []string) error {
	known := fieldPaths(reflect.TypeFor[T](), "", map[string]bool{})
	for _, name := range critical {
		if !known[name] {
			if len(name) > 80 {
				name = name[:80]
			}
			return fmt.Errorf("%w: field %q", ErrCritical, name)
		}
	}
	return nil
}

func fieldPaths(t reflect.Type, prefix string, into map[string]bool) map[string]bool {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[time.Time]() {
		return into
	}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		into[prefix+name] = true
		fieldPaths(f.Type, prefix+name+".", into)
	}
	return into
}
