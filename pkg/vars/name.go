package vars

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// ErrName is wrapped by errors about names that can be none in a tree.
var ErrName = errors.New("malformed name")

// maxName bounds a name in bytes: what file systems take.
const maxName = 255

// Kind is a kind of reader, and the directory below sops/ for it.
type Kind string

// The kinds.
const (
	Users    Kind = "users"
	Machines Kind = "machines"
	Groups   Kind = "groups"
)

// kinds are all of them, in the order of their directories.
var kinds = []Kind{Groups, Machines, Users}

// one is the word for one of a kind.
func (k Kind) one() string { return strings.TrimSuffix(string(k), "s") }

// Reader is a user, a machine or a group.
type Reader struct {
	Kind Kind
	Name string
}

func (r Reader) String() string { return r.Kind.one() + " " + r.Name }

// path is where the reader's directory is.
func (r Reader) path() string { return path.Join("sops", string(r.Kind), r.Name) }

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	digits = "0123456789"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

func consists(s string, most int, first, others string) bool {
	return s != "" && len(s) <= most && strings.IndexByte(first, s[0]) >= 0 && strings.Trim(s[1:], others) == ""
}

// Check says whether the name is one that clan takes, too.
func (r Reader) Check() error {
	switch r.Kind {
	case Users, Groups:
		if consists(r.Name, 32, lower+"_", lower+digits+"_-") {
			return nil
		}
		return fmt.Errorf("%w: %s %.64q: use small letters, digits, _ and -, at most 32, a letter or _ first", ErrName, r.Kind.one(), r.Name)
	case Machines:
		if consists(r.Name, 63, lower+upper+digits, lower+upper+digits+"-") && !strings.HasSuffix(r.Name, "-") {
			return nil
		}
		return fmt.Errorf("%w: machine %.64q: use letters, digits and inner dashes, at most 63", ErrName, r.Name)
	}
	return fmt.Errorf("%w: %.64q is no kind of reader", ErrName, r.Kind)
}

// checkSecretName is for names in sops/secrets.
func checkSecretName(name string) error {
	if !consists(name, maxName, lower+upper+digits+"_-", lower+upper+digits+"._-") {
		return fmt.Errorf("%w: secret %.64q: use letters, digits, dots, _ and -, no dot first", ErrName, name)
	}
	return nil
}

// checkElement is for names of generators and files, which are any that can be in a path.
// A leading dot would meet .validation-hash and temporary files.
func checkElement(what, name string) error {
	if name == "" || len(name) > maxName || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\x00\n") {
		return fmt.Errorf("%w: %s %.64q: it is a part of a path, so that it is not empty, has no / and no newline, and no dot first", ErrName, what, name)
	}
	return nil
}

// Placement is where a generator's files are: of one machine, shared, or of an export. The
// zero Placement is none.
type Placement struct{ area, name string }

// The areas below vars/.
const (
	perMachine = "per-machine"
	shared     = "shared"
	perExport  = "per-export"
)

// PerMachine is the placement of what one machine has for itself.
func PerMachine(machine string) Placement { return Placement{perMachine, machine} }

// Shared is the placement of what machines share.
func Shared() Placement { return Placement{area: shared} }

// PerExport is the placement of an export, SERVICE:INSTANCE:ROLE:MACHINE.
func PerExport(key string) Placement { return Placement{perExport, key} }

// Machine is the machine of a per-machine placement, else "".
func (p Placement) Machine() string {
	if p.area == perMachine {
		return p.name
	}
	return ""
}

// Shared says whether machines share what is there.
func (p Placement) Shared() bool { return p.area == shared }

// Export is the key of an export's placement, else "".
func (p Placement) Export() string {
	if p.area == perExport {
		return p.name
	}
	return ""
}

func (p Placement) String() string { return path.Join(p.area, p.name) }

func (p Placement) check() error {
	switch p.area {
	case perMachine:
		return Reader{Machines, p.name}.Check()
	case shared:
		return nil
	case perExport:
		if strings.Count(p.name, ":") != 3 || strings.Trim(p.name, ":") == "" {
			return fmt.Errorf("%w: export %.64q: want SERVICE:INSTANCE:ROLE:MACHINE, of which some may be empty", ErrName, p.name)
		}
		return checkElement("export", p.name)
	}
	return fmt.Errorf("%w: %.64q is no placement", ErrName, p.area)
}

// ID names a file of a generator.
type ID struct {
	Placement Placement
	Generator string
	File      string
}

// RelDir is the generator's directory below vars/, as in paths on hosts.
func (id ID) RelDir() string { return path.Join(id.Placement.String(), id.Generator) }

// String is the entry's path below vars/.
func (id ID) String() string { return path.Join(id.RelDir(), id.File) }

// Path is the entry's path in the tree.
func (id ID) Path() string { return path.Join("vars", id.String()) }

// Check says whether a tree can have such a file.
func (id ID) Check() error {
	if err := id.Placement.check(); err != nil {
		return err
	}
	if err := checkElement("generator", id.Generator); err != nil {
		return err
	}
	return checkElement("file", id.File)
}

// SecretPath is the entry of a secret that no generator makes.
func SecretPath(name string) string { return path.Join("sops", "secrets", name) }

// MachineKeyPath is the entry of a machine's private key.
func MachineKeyPath(machine string) string { return SecretPath(machine + "-age.key") }
