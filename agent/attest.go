package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/attest"
	"github.com/cameronraysmith/fleet/pkg/atomicfile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
	"github.com/cameronraysmith/fleet/pkg/release"
)

const (
	// freshFor is how many intervals a statement counts: so many may fail.
	freshFor = 6
	// maxKeyBytes bounds the file of the freshness key.
	maxKeyBytes = 16 << 10
)

// check finds mistakes before anything starts.
func (f Freshness) check() error {
	switch {
	case (f.Key == "") != (f.Repository == ""):
		return errors.New("--freshness-key and --freshness-repository need each other")
	case f.Key == "":
		return nil
	case !filepath.IsAbs(f.Key) || !filepath.IsAbs(f.Repository):
		return errors.New("--freshness-key and --freshness-repository: want absolute paths")
	case f.Interval < time.Minute || freshFor*f.Interval > fleet.MaxFreshness:
		return fmt.Errorf("--freshness-interval %s: want %s to %s", f.Interval, time.Minute, fleet.MaxFreshness/freshFor)
	}
	return nil
}

// attestLoop states again and again what is the newest, until ctx ends.
func (a *Agent) attestLoop(ctx context.Context, b *bound) error {
	l := a.progress.Loop("freshness", "beginning", oneStep)
	defer l.Ends()
	for failed := 0; ; {
		l.Does("stating what is the newest", oneStep)
		err := a.attest(ctx, b)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		wait := spread(a.config.Freshness.Interval)
		if err != nil {
			a.config.Log.Error("stating what is the newest failed; it is tried again", "error", err)
			wait = min(wait, spread(grow(a.config.Retry, failed)))
			failed++
		} else {
			failed = 0
		}
		if err := rests(ctx, l, wait, nil); err != nil {
			return err
		}
	}
}

// attest states once what is the newest. Where the checkout can't be brought up
// to date, nothing is stated: an old one would call old what is new.
func (a *Agent) attest(ctx context.Context, b *bound) error {
	c := a.config.Freshness
	signer, err := freshnessSigner(c.Key)
	if err != nil {
		return err
	}
	if err := attest.Update(ctx, c.Repository); err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	id, err := a.identity.Binding()
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	newest, err := attest.Read(c.Repository, id.Root)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	now := a.now().UTC().Truncate(time.Second)
	statements, err := newest.Sign(b.fleet, now, now.Add(freshFor*c.Interval), signer)
	if err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	if err := b.client.PutFreshness(ctx, statements); err != nil {
		return err //nolint:wrapcheck // It says what failed.
	}
	a.config.Log.Info("stated what is the newest", "machines", len(statements), "root", newest.Root)
	return nil
}

func freshnessSigner(name string) (release.Signer, error) {
	text, err := atomicfile.ReadAtMost(name, maxKeyBytes)
	if err != nil {
		return nil, fmt.Errorf("reading freshness key: %w", err)
	}
	der, err := pki.DecodeKey(text)
	if err != nil {
		return nil, fmt.Errorf("reading freshness key: %s: %w", name, err)
	}
	key, err := pki.ParseKey(der)
	if err != nil {
		return nil, fmt.Errorf("reading freshness key: %s: %w", name, err)
	}
	ed, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading freshness key: %s: want an ed25519 key", name)
	}
	return release.NewSigner(ed), nil
}
