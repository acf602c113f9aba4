package client

import (
	"context"
	"fmt"

	fleetv1 "github.com/cameronraysmith/fleet/proto/fleet/v1"
)

// rootsAtATime is how many trust roots travel in one message: two at their
// limit fit into what a coordinator takes.
const rootsAtATime = 8

// AddTrustRoots hands over trust roots, oldest first, of which the coordinator
// may have some already, and says which version is its newest then. A failure
// midway leaves some handed over: handing over again completes it.
func (c *Client) AddTrustRoots(ctx context.Context, roots [][]byte) (version uint64, err error) {
	for len(roots) > 0 {
		n := min(len(roots), rootsAtATime)
		if version, err = c.addRoots(ctx, roots[:n]); err != nil {
			return 0, fmt.Errorf("handing over the trust root: %w", err)
		}
		roots = roots[n:]
	}
	return version, nil
}

func (c *Client) addRoots(ctx context.Context, roots [][]byte) (uint64, error) {
	ctx, cancel := c.call(ctx)
	defer cancel()
	res, err := c.rpc.AddTrustRoots(ctx, &fleetv1.AddTrustRootsRequest{Roots: roots})
	if err != nil {
		return 0, c.explain(ctx, err)
	}
	return res.GetVersion(), nil
}
