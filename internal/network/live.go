package network

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/banger-dev/banger/internal/network/speech"
	"github.com/banger-dev/banger/internal/policy"
)

// connections are the guest's TCP connections to the outside.
type connections struct {
	mu  sync.Mutex
	all map[*connection]struct{}
}

// connection is one of them.
type connection struct {
	net *Network
	// cut ends it with a reset; it may be called at any time and again. done is
	// closed when it has ended.
	cut  func()
	done chan struct{}
	// listener hears what the guest sends; nil: nobody does. It belongs to the
	// goroutine that copies.
	listener *speech.Listener
	// hold is closed when what comes from outside may reach the guest; nil: at
	// once.
	hold    chan struct{}
	release func()
	// confirmed is closed when the server has begun to speak what the guest does, or
	// need not; nil: nobody waits for that.
	confirmed chan struct{}
	accept    func()

	mu   sync.Mutex
	flow policy.Flow
}

func newConnections() *connections { return &connections{all: map[*connection]struct{}{}} }

// add has a connection reviewed from now on. It reports false if a policy that came
// since it was decided forbids it.
func (l *connections) add(c *connection) bool {
	l.mu.Lock()
	l.all[c] = struct{}{}
	l.mu.Unlock()
	return c.allowed()
}

func (l *connections) remove(c *connection) {
	l.mu.Lock()
	delete(l.all, c)
	l.mu.Unlock()
}

// review ends the connections that the policy forbids, and returns when they have
// ended.
func (l *connections) review() {
	l.mu.Lock()
	all := make([]*connection, 0, len(l.all))
	for c := range l.all {
		all = append(all, c)
	}
	l.mu.Unlock()
	all = slices.DeleteFunc(all, (*connection).allowed)
	for _, c := range all {
		c.cut()
	}
	for _, c := range all {
		<-c.done
	}
}

// newConnection is a connection that was decided by verdict.
func (n *Network) newConnection(flow policy.Flow, verdict policy.Verdict) *connection {
	c := &connection{net: n, flow: flow, done: make(chan struct{}), release: func() {}, accept: func() {}}
	if verdict.Inspect {
		c.listener = speech.New(c.judge, verdict.Hold)
	}
	if verdict.Hold {
		c.hold, c.confirmed = make(chan struct{}), make(chan struct{})
		c.release = sync.OnceFunc(func() { close(c.hold) })
		c.accept = sync.OnceFunc(func() { close(c.confirmed) })
	}
	return c
}

// asked is the flow as it is known now.
func (c *connection) asked() policy.Flow {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flow
}

// judge decides what the connection was heard to be for.
func (c *connection) judge(kind policy.Speech, host string) error {
	c.mu.Lock()
	c.flow.Speech, c.flow.Name = kind, host
	flow := c.flow
	c.mu.Unlock()
	verdict := c.net.policy.Decide(flow)
	c.net.note(flow, verdict)
	if !verdict.Allow {
		return errRefused
	}
	c.release()
	return nil
}

// confirmTime bounds the wait for the first word of a server that is to confirm
// what the guest speaks.
const confirmTime = time.Minute

var errOtherSpeech = errors.New("the server does not speak what the guest does")

// confirm waits until the server has said that it speaks what the guest does, and
// returns what has waited for that.
func (c *connection) confirm(ctx context.Context) ([]byte, error) {
	patience := time.NewTimer(confirmTime)
	defer patience.Stop()
	select {
	case <-c.confirmed:
		return c.listener.Confirm(), nil
	case <-patience.C:
		return nil, errOtherSpeech
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serverBegins takes what a server sent so far, before any of it reaches the guest.
// It reports whether that is enough; an error ends the connection.
func (c *connection) serverBegins(p []byte, ended bool) (enough bool, err error) {
	flow := c.asked()
	switch {
	case isClosed(c.confirmed), flow.Speech != policy.TLS && flow.Speech != policy.SSH:
	case len(p) < speech.ServerBegin && ended:
		return false, errOtherSpeech
	case len(p) < speech.ServerBegin:
		return false, nil
	case !speech.Confirms(flow.Speech, p):
		c.net.note(flow, policy.Verdict{Reason: policy.ReasonHostName, Rule: "the server does not speak " + string(flow.Speech)})
		return false, errOtherSpeech
	}
	c.accept()
	return true, nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// errUnheard: the guest ended its side before it said what the connection is for.
var errUnheard = errors.New("ended before it said for which host it is")

// end takes the guest's end of stream; what it returns still goes out.
func (c *connection) end() ([]byte, error) {
	if c.listener == nil {
		return nil, nil
	}
	if c.listener.Judged() || c.released() {
		return c.listener.End()
	}
	return nil, errUnheard
}

// released reports whether what comes from outside may reach the guest.
func (c *connection) released() bool {
	return c.hold == nil || isClosed(c.hold)
}

// finish notes, for learning, a connection in which the guest never spoke. Both
// directions have ended.
func (c *connection) finish() {
	if c.listener == nil || c.listener.Judged() {
		return
	}
	flow := c.asked()
	flow.Speech = policy.Other
	if verdict := c.net.policy.Decide(flow); verdict.WouldRefuse {
		c.net.note(flow, verdict)
	}
}

// allowed asks the policy of now, and notes it if that refuses. One that nobody
// hears, or only overhears, and that only its bytes could speak for is not allowed;
// where the policy
// allows the rest, it counts as being for each name that leads to its address.
func (c *connection) allowed() bool {
	flow := c.asked()
	verdict := c.net.policy.Decide(flow)
	if verdict.Allow && verdict.Inspect && (c.listener == nil || verdict.Hold && c.hold == nil) {
		verdict = c.unheard(flow, verdict)
	}
	switch {
	case !verdict.Allow:
		c.net.note(flow, verdict)
	case !verdict.Hold:
		c.release()
		c.accept()
	}
	return verdict.Allow
}

func (c *connection) unheard(flow policy.Flow, verdict policy.Verdict) policy.Verdict {
	if verdict.Hold {
		return policy.Verdict{Reason: policy.ReasonHostName, Rule: verdict.Rule}
	}
	refused := slices.IndexFunc(flow.Known, func(name string) bool {
		flow.Speech, flow.Name = policy.TLS, name
		return !c.net.policy.Decide(flow).Allow
	})
	if refused < 0 {
		return verdict
	}
	flow.Name = flow.Known[refused]
	return c.net.policy.Decide(flow)
}
