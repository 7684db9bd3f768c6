package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/fault"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/template"
)

const (
	// spareMaking bounds the making of a spare. It takes half a second on an idle
	// host under emulation.
	spareMaking = 2 * time.Minute
	// spareWaits is the state of a supervisor whose spare waits.
	spareWaits = "spare"
)

// The steps of the making and the claiming of a spare, as fault.Point names
// them.
const (
	stepSpareDir   = "spare.directory" // the directory is there, and marked
	stepSpareSpawn = "spare.spawn"     // the supervisor is about to be started
	stepSpareReady = "spare.ready"     // it waits
	stepClaim      = "claim"           // it has a record; it is about to be claimed
	stepClaimed    = "claimed"         // it is the VM; the operation is about to end
)

// SpareFaultPoints are the steps in the order they are passed.
func SpareFaultPoints() []string {
	return []string{stepSpareDir, stepSpareSpawn, stepSpareReady,
		string(store.KindCreate) + "." + stepClaim, string(store.KindCreate) + "." + stepClaimed}
}

// make makes a spare of r's template. An error, and the next daemon after one
// that was killed, leave nothing of it.
func (s *spares) make(ctx context.Context, r *recipe) (sp *spare, err error) {
	ctx, cancel := context.WithTimeout(ctx, spareMaking)
	defer cancel()
	began := time.Now()
	found, ok := s.d.templates.store.Find(r.key)
	if !ok {
		return nil, errors.New("its template is gone")
	}
	id := banger.NewID()
	sp = &spare{id: id, dir: s.d.opts.Home.Instance(id), recipe: r, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			s.end(sp)
			sp = nil
		}
	}()
	if err := markSpare(sp.dir); err != nil {
		return sp, err
	}
	if err := fault.Point(stepSpareDir); err != nil {
		return sp, err
	}
	if err := s.furnish(ctx, sp, found); err != nil {
		return sp, err
	}
	if err := fault.Point(stepSpareSpawn); err != nil {
		return sp, err
	}
	if err := s.spawn(sp); err != nil {
		return sp, err
	}
	if err := s.awaitWaiting(ctx, sp); err != nil {
		return sp, err
	}
	s.log.Info("a spare waits", "vm", id, "template", banger.ShortID(r.key), "took", time.Since(began).Round(time.Millisecond))
	return sp, fault.Point(stepSpareReady)
}

// markSpare makes the directory of a spare: it is never seen without the mark.
func markSpare(dir layout.Instance) error {
	temp := layout.Instance(layout.Temp(dir.Dir()))
	if err := os.Mkdir(temp.Dir(), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(temp.Spare(), nil, 0o600); err != nil {
		return err
	}
	return os.Rename(temp.Dir(), dir.Dir())
}

// furnish puts disks and a spec that names nobody into the directory.
func (s *spares) furnish(ctx context.Context, sp *spare, found template.Template) error {
	if err := s.d.templates.copyDisks(ctx, sp.dir, found); err != nil {
		return err
	}
	r := sp.recipe
	p := r.parts
	p.template = found.Dir.Dir()
	nobody := store.VM{ID: sp.id, Name: "spare", VCPU: r.VCPU, MemoryMiB: r.MemoryMiB}
	spec, err := s.d.spec(nobody, p)
	if err != nil {
		return err
	}
	network, err := guestNetwork()
	if err != nil {
		return err
	}
	spec.DnsUpstream, spec.AllowPrivate = "", nil
	spec.Boot, err = proto.Marshal(&agentv1.Boot{Id: nobody.ID, Hostname: nobody.Name, Network: network, Template: true})
	if err != nil {
		return err
	}
	return writeSpec(sp.dir, spec, true)
}

// spawn starts the supervisor, which ends with the pipe that it is given unless
// it is claimed.
func (s *spares) spawn(sp *spare) error {
	log, err := os.OpenFile(sp.dir.SupervisorLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	held, owner, err := os.Pipe()
	if err != nil {
		return err
	}
	defer held.Close()
	sp.owner = owner
	cmd := exec.Command(s.d.opts.Supervisor, "run", "--spare", sp.dir.Dir())
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", held, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if sp.proc, err = process.Open(cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	s.d.work.Go(func() { s.d.reap(cmd) })
	sp.client, sp.hangUp = supervisorClient(sp.dir)
	watch, cancel := context.WithCancel(s.d.life)
	sp.watch = cancel
	s.d.work.Go(func() {
		defer close(sp.ended)
		if sp.proc.Wait(watch) == nil {
			s.lost(sp)
		}
	})
	return nil
}

// awaitWaiting returns when the spare waits.
func (s *spares) awaitWaiting(ctx context.Context, sp *spare) error {
	dir, err := watchDir(sp.dir.Dir())
	if err != nil {
		return err
	}
	defer dir.close()
	recheck := time.NewTicker(firstRecheck)
	defer recheck.Stop()
	for {
		over, err := sp.follow(ctx)
		if over || err != nil {
			return err
		}
		select {
		case <-dir.changed:
		case <-recheck.C:
		case <-sp.ended:
			exit, _ := readExit(sp.dir)
			return fmt.Errorf("its supervisor ended: %s", exit.Reason)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// follow takes the supervisor's status until it waits. It reports false if there
// was no supervisor to ask.
func (sp *spare) follow(ctx context.Context) (waits bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := sp.client.Watch(ctx, connect.NewRequest(&vmv1.WatchRequest{}))
	if err != nil {
		return false, nil
	}
	defer stream.Close()
	for stream.Receive() {
		switch now := stream.Msg(); now.State {
		case spareWaits:
			return true, nil
		case "stopped":
			return false, errors.New(now.Reason)
		}
	}
	return false, nil
}

// lost is told that the supervisor of a spare has ended.
func (s *spares) lost(sp *spare) {
	s.mu.Lock()
	waited := false
	if p := s.pools[sp.recipe.key]; p != nil {
		for i, other := range p.ready {
			if other == sp {
				p.ready, waited = append(p.ready[:i:i], p.ready[i+1:]...), true
				break
			}
		}
	}
	s.mu.Unlock()
	if waited {
		s.log.Warn("a spare has ended", "vm", sp.id)
		s.remove(sp)
		s.look()
	}
}

// end ends a spare that nobody has, and removes it.
func (s *spares) end(sp *spare) {
	if sp.proc != nil {
		sp.watch()
		<-sp.ended
		sp.owner.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.d.life), endWait)
		defer cancel()
		if sp.proc.Wait(ctx) != nil {
			sp.proc.Kill()
		}
	}
	s.remove(sp)
}

// remove removes what is left of a spare whose supervisor has ended.
func (s *spares) remove(sp *spare) {
	ctx, cancel := detached(s.d.life)
	defer cancel()
	err := errors.Join(s.d.endProcesses(ctx, sp.dir), removeDir(sp.dir))
	if sp.proc != nil {
		sp.hangUp()
		err = errors.Join(err, sp.owner.Close(), sp.proc.Close())
	}
	if err != nil && !errors.Is(err, os.ErrClosed) {
		s.log.Error("a spare is not removed", "vm", sp.id, "error", err)
	}
}
