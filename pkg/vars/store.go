package vars

// Store is where a change keeps the secrets of generators; public values and validation
// hashes are in the tree whichever it is. Errors wrap those of packages vars and sops, and
// name the file.
type Store interface {
	// Has says whether there is a secret, readable or not.
	Has(id ID) bool
	// Read returns a secret, with the private keys of who makes the change.
	Read(id ID) ([]byte, error)
	// Put sets a secret for those who are to read it. An equal one for equal readers is left.
	Put(id ID, value []byte, a Access) error
	// Delete removes a secret; ErrNotFound where there is none.
	Delete(id ID) error
}

// SopsStore keeps secrets in documents of sops, as clan does where nothing else is chosen.
func (c *Change) SopsStore() Store { return sopsStore{c} }

type sopsStore struct{ c *Change }

func (s sopsStore) Has(id ID) bool {
	e, ok := s.c.t.entries[id.Path()]
	return ok && e.Secret
}

func (s sopsStore) Read(id ID) ([]byte, error) { return s.c.Read(id.Path()) }

func (s sopsStore) Put(id ID, value []byte, a Access) error {
	if err := id.Check(); err != nil {
		return err
	}
	return s.c.PutSecret(id.Path(), value, a)
}

func (s sopsStore) Delete(id ID) error { return s.c.Delete(id.Path()) }
