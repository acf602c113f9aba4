//go:build !linux

package execute

func useGroups(string) func() { return func() {} }
