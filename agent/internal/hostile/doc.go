// Package hostile holds the tests of an agent whose coordinator is in the wrong
// hands. Each row is one attack, named after the lists of
//
//   - The Update Framework, specification 1.0, section 1.5.2, "Goals to protect
//     against specific attacks" (TUF), and
//   - the Uptane Standard 2.0, section "Description of threats" (Uptane),
//
// or after the sentence of the trust model that it would break. A row runs a
// real agent, as a process of its own, against a coordinator over loopback that
// has the fleet's CA, and so everything that a coordinator has, but none of the
// keys that sign what hosts run.
package hostile
