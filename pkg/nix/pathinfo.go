// Package nix reads what the nix program prints. Running it is for its callers:
// a host and a publisher wait for it in different ways.
package nix

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/strictjson"
)

// MaxPathInfoBytes bounds what is read of "nix path-info --json": that of a
// closure of 100,000 paths with some references and signatures each.
const MaxPathInfoBytes = 128 << 20

// Sentinels that errors of this package wrap.
var (
	// ErrNotValid is a path that the store does not have.
	ErrNotValid = errors.New("the store does not have it")
	// ErrPathInfo is what "nix path-info --json" of no known version prints.
	ErrPathInfo = errors.New("not what nix path-info --json prints")
)

// PathInfo is a store path as Nix's database has it.
type PathInfo struct {
	fleet.ClosurePath
	// Registered is when the path came to be in the store; zero where Nix does
	// not say.
	Registered time.Time
}

// pathInfo is one path in Nix's JSON. What is not needed is left out.
type pathInfo struct {
	// Path and Valid are those of the list form.
	Path  *string `json:"path"`
	Valid *bool   `json:"valid"`

	NarHash          string   `json:"narHash"`
	NarSize          uint64   `json:"narSize"`
	References       []string `json:"references"`
	RegistrationTime *int64   `json:"registrationTime"`
}

// DecodePathInfo reads what "nix path-info --json" prints, and returns it by
// path: since Nix 2.19 an object by path, before that a list. Errors wrap
// [ErrNotValid] where a path that was asked for is not in the store, else
// [ErrPathInfo] or a sentinel of pkg/strictjson.
func DecodePathInfo(data []byte) ([]PathInfo, error) {
	infos, err := decodePathInfo(data)
	if err != nil {
		return nil, fmt.Errorf("reading path info: %w", err)
	}
	slices.SortFunc(infos, func(a, b PathInfo) int { return strings.Compare(a.Path, b.Path) })
	for i := range infos[:max(len(infos)-1, 0)] {
		if infos[i].Path == infos[i+1].Path {
			return nil, fmt.Errorf("reading path info: %w: %s is there twice", ErrPathInfo, infos[i].Path)
		}
	}
	return infos, nil
}

func decodePathInfo(data []byte) ([]PathInfo, error) {
	if bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("[")) {
		var list []pathInfo
		if err := strictjson.Unmarshal(data, MaxPathInfoBytes, &list); err != nil {
			return nil, err
		}
		infos := make([]PathInfo, 0, len(list))
		for _, p := range list {
			if p.Path == nil {
				return nil, fmt.Errorf("%w: an entry without a path", ErrPathInfo)
			}
			info, err := p.info(*p.Path)
			if err != nil {
				return nil, err
			}
			infos = append(infos, info)
		}
		return infos, nil
	}
	var byPath map[string]*json.RawMessage
	if err := strictjson.Unmarshal(data, MaxPathInfoBytes, &byPath); err != nil {
		return nil, err
	}
	infos := make([]PathInfo, 0, len(byPath))
	for path, raw := range byPath {
		if raw == nil {
			return nil, fmt.Errorf("%w: %s", ErrNotValid, clip(path))
		}
		var p pathInfo
		if err := json.Unmarshal(*raw, &p); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrPathInfo, clip(path), err)
		}
		info, err := p.info(path)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func (p *pathInfo) info(path string) (PathInfo, error) {
	if err := fleet.ValidateStorePath(path); err != nil {
		return PathInfo{}, fmt.Errorf("%w: %w", ErrPathInfo, err)
	}
	if p.Valid != nil && !*p.Valid {
		return PathInfo{}, fmt.Errorf("%w: %s", ErrNotValid, path)
	}
	hash, err := sriHash(p.NarHash)
	if err != nil {
		return PathInfo{}, fmt.Errorf("%w: %s: %w", ErrPathInfo, path, err)
	}
	info := PathInfo{ClosurePath: fleet.ClosurePath{Path: path, NarHash: hash, NarSize: p.NarSize}}
	for _, r := range p.References {
		if err := fleet.ValidateStorePath(r); err != nil {
			return PathInfo{}, fmt.Errorf("%w: reference of %s: %w", ErrPathInfo, path, err)
		}
		info.References = append(info.References, r)
	}
	slices.Sort(info.References)
	info.References = slices.Compact(info.References)
	if p.RegistrationTime != nil && *p.RegistrationTime > 0 {
		info.Registered = time.Unix(*p.RegistrationTime, 0).UTC()
	}
	return info, nil
}

// sriHash reads a SHA-256 as Nix prints it, "sha256-" and base64, or "sha256:"
// and hexadecimal, and returns the first form.
func sriHash(h string) (string, error) {
	var sum []byte
	err := errors.New("no SHA-256")
	if text, ok := strings.CutPrefix(h, "sha256-"); ok {
		sum, err = base64.StdEncoding.Strict().DecodeString(text)
	} else if text, ok := strings.CutPrefix(h, "sha256:"); ok {
		sum, err = hex.DecodeString(text)
	}
	if err != nil || len(sum) != 32 {
		return "", fmt.Errorf("narHash %q is no SHA-256", clip(h))
	}
	return "sha256-" + base64.StdEncoding.EncodeToString(sum), nil
}

// clip bounds what an error repeats of outside bytes.
func clip(s string) string {
	const most = 120
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
