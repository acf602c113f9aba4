// Writer makes a change of a tree: DIR, and the file of private keys.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cameronraysmith/fleet/pkg/sops"
	"github.com/cameronraysmith/fleet/pkg/vars"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dir, keys string) error {
	text, err := os.ReadFile(keys)
	if err != nil {
		return err
	}
	ids, err := sops.ParseIdentities(text, nil)
	if err != nil {
		return err
	}
	c, err := vars.Begin(context.Background(), dir, vars.Options{Identities: ids, Now: time.Now})
	if err != nil {
		return err
	}
	if _, err := c.Tree().Entry("vars/shared/ca/key"); errors.Is(err, vars.ErrNotFound) {
		return c.Close() // A run that was killed had decided it.
	}
	id := vars.ID{Placement: vars.Shared(), Generator: "new", File: "public"}
	err = errors.Join(
		c.PutSecret("vars/shared/psk/psk", []byte("rotated"), vars.Access{}),
		c.PutSecret("vars/per-machine/m3/new/secret", []byte("new"), vars.Access{Machines: []string{"m3"}}),
		c.PutPublic(id, []byte("public")),
		c.SetValidationHash(vars.Shared(), "new", "hash"),
		c.Delete("vars/shared/ca/key"),
		c.RemoveMember("admins", vars.Reader{Kind: vars.Users, Name: "bob"}),
	)
	if err == nil {
		_, err = c.Commit()
	}
	return errors.Join(err, c.Close())
}
