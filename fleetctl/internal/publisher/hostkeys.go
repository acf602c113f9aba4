package publisher

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/keyring"
	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
	"github.com/cameronraysmith/fleet/pkg/crashpoint"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/pki"
)

// CollectHostKeys asks the coordinator for the keys that hosts sent at
// enrolment and records those whose proof fits the join string that was made
// here. A proof that does not fit is an alarm, and the keys are not recorded:
// the coordinator may have put its own in their place.
func (p *Publisher) CollectHostKeys(ctx context.Context, write bool) ([]fleet.MachineName, error) {
	list, err := p.Coordinator.HostKeys(ctx)
	if err != nil {
		return nil, err
	}
	return p.recordHostKeys(list, write)
}

// recordHostKeys is CollectHostKeys with what the coordinator answered.
func (p *Publisher) recordHostKeys(list []client.HostKeys, write bool) ([]fleet.MachineName, error) {
	var recorded []fleet.MachineName
	for _, k := range list {
		m, err := fleet.ParseMachineName(k.Machine)
		if err != nil {
			p.Reporter.Alarm(fmt.Sprintf("the coordinator names a host that can't be: %v", err))
			continue
		}
		old, err := p.Repo.Host(m)
		if err != nil {
			return nil, err
		}
		if len(k.Keys) == 0 || old != nil && old.Keys == string(k.Keys) {
			continue
		}
		rec, err := p.checkKeys(m, k)
		switch {
		case errors.Is(err, ErrAlarm):
			p.Reporter.Alarm(fmt.Sprintf("host keys of %s: %v; they are not recorded", m, err))
			continue
		case errors.Is(err, os.ErrNotExist), errors.Is(err, keyring.ErrCannotOpen):
			p.Reporter.Warn(fmt.Sprintf("host keys of %s can't be checked here, so they are not recorded: its join string was made in another checkout (%v)", m, err))
			continue
		case err != nil:
			return nil, err
		}
		if old != nil && !rec.Joined.After(old.Joined) {
			p.Reporter.Alarm(fmt.Sprintf("the coordinator shows keys of %s that are older than the recorded ones; they are not recorded", m))
			continue
		}
		if write {
			if err := p.Repo.WriteHost(rec); err != nil {
				return nil, err
			}
			crashpoint.Hit(crashpoint.HostKeysKept)
		}
		recorded = append(recorded, m)
	}
	return recorded, nil
}

// checkKeys checks a host's keys by the join string that it used.
func (p *Publisher) checkKeys(m fleet.MachineName, k client.HostKeys) (*repo.HostRecord, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrAlarm, fmt.Sprintf(format, args...))
	}
	join, err := p.joinOf(m, k)
	if err != nil {
		return nil, err
	}
	if join.Machine != m || join.Fleet != p.Fleet {
		return nil, bad("their join string was made for %s", join.Machine)
	}
	if !join.CheckMAC(k.Keys, k.MAC) {
		return nil, bad("their proof does not fit: they are not the ones that the host made")
	}
	keys, err := pki.ParseHostKeys(k.Keys)
	if err != nil {
		return nil, bad("%v", err)
	}
	if keys.Machine != m {
		return nil, bad("they are of %s", keys.Machine)
	}
	return &repo.HostRecord{
		Machine: m, Keys: string(k.Keys), Age: keys.Age, Report: keys.Report,
		TokenHash: hex.EncodeToString(join.TokenHash()), Joined: join.Issued,
	}, nil
}

// joinOf finds the join string that a host used. A coordinator that lost its
// store has the keys and their proof from the host, which does not know any
// more which one it was: then the proof says so itself.
func (p *Publisher) joinOf(m fleet.MachineName, k client.HostKeys) (pki.Join, error) {
	switch len(k.TokenHash) {
	case 0:
	case sha256.Size:
		return p.Repo.Join(k.TokenHash, p.Keys)
	default:
		return pki.Join{}, fmt.Errorf("%w: they name no join string", ErrAlarm)
	}
	joins, err := p.Repo.JoinsOf(m, p.Keys)
	if err != nil {
		return pki.Join{}, err
	}
	for _, j := range joins {
		if j.CheckMAC(k.Keys, k.MAC) {
			return j, nil
		}
	}
	return pki.Join{}, fmt.Errorf("%w: their proof fits none of its join strings", ErrAlarm)
}
