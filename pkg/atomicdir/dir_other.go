//go:build !linux

package atomicdir

import "errors"

const canSyncAll = false

func syncAll(string) error { return errors.ErrUnsupported }

func exchange(tmp, dst string) error { return exchangeByTwo(tmp, dst) }
