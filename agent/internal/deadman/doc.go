// Package deadman is the dead-man switch: a process of its own that takes a
// profile back when nobody says in time that what was activated works. It needs
// neither a running agent nor a network, and is what saves a host whose new
// generation brings an agent that crashes or hangs, or whose agent is killed in
// the midst of an activation and never comes back.
//
// The agent writes an Order before an activation begins: what to do, as data, and
// when. A process of the program that Order's writer kept (Main) waits for the
// deadline, in time awake. Whoever is the first to leave a verdict on an order has
// decided: the agent, which verified the generation or gave up waiting by policy, or
// the switch, which fired. So an agent that hung and goes on can't call verified
// what is being taken back, and the switch can't take back what was verified.
//
// The way back is made of runs with the names that the agent itself would give
// them, in the agent's directory of runs, whose locks let each be carried out
// once, whoever starts it (package execute).
package deadman
