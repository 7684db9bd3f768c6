package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/sshkey"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/unixsock"
	"github.com/banger-dev/banger/internal/vmhost"
)

// Daemon is the running daemon.
type Daemon struct {
	opts    Options
	log     *slog.Logger
	store   *store.Store
	started time.Time

	// life ends after the last request has; work is everything that lives
	// until then.
	life context.Context
	work sync.WaitGroup
	// quit ends serving.
	quit context.CancelFunc

	mu  sync.Mutex
	vms map[string]*machine

	probing sync.Mutex
	probes  map[string]vmhost.Found

	writingHosts sync.Mutex

	// addresses is the range of this user's VMs, as it was when the daemon began.
	addresses netip.Prefix
	// address is the number of the one given last, within the user's range.
	address int
	// names does not change while requests are served.
	names names

	templates *templates
	spares    *spares
	// ttl deletes VMs whose time is over.
	ttl *alarms
}

// Run is the daemon's life: it returns when ctx ends or a client asks for the
// end, or at once if it cannot serve. No VM is stopped by that.
func Run(ctx context.Context, o Options) error {
	if err := PrepareState(o.Home); err != nil {
		return err
	}
	lock, err := lockState(ctx, o.Home)
	if err != nil {
		return err
	}
	defer lock.Release()
	db, err := store.Open(o.Home.Store(), o.Log)
	if err != nil {
		return err
	}
	defer db.Close()
	// Clients may connect from here on; they are answered when the VMs of an
	// earlier daemon are adopted.
	listener, err := unixsock.Listen(o.Home.DaemonSocket())
	if err != nil {
		return banger.Errorf(banger.CodeUnavailable, "the daemon's socket cannot be made: %w", err)
	}
	defer listener.Close()
	life, die := context.WithCancel(context.WithoutCancel(ctx))
	serving, quit := context.WithCancel(ctx)
	defer quit()
	d := &Daemon{
		opts: o, log: o.Log, store: db, started: time.Now(), life: life, quit: quit,
		vms: map[string]*machine{}, probes: map[string]vmhost.Found{},
	}
	d.templates, d.spares = newTemplates(d), newSpares(d)
	d.ttl = newAlarms(expireAgain, d.expiries, d.expired)
	defer d.work.Wait()
	defer die()
	if err := d.load(serving); err != nil {
		return err
	}
	defer d.startNetwork()()
	d.work.Go(func() { d.spares.run(life) })
	d.work.Go(func() { d.ttl.run(life) })
	o.Log.Info("daemon serves", "build", banger.BuildStamp().String(), "vms", len(d.all()))
	err = d.serve(serving, unixsock.OwnerOnly(listener))
	o.Log.Info("daemon ends")
	return err
}

// all returns the machines, oldest first.
func (d *Daemon) all() []*machine {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []*machine
	for _, m := range d.vms {
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *machine) int {
		x, y := a.look().rec, b.look().rec
		if c := x.Created.Compare(y.Created); c != 0 {
			return c
		}
		return strings.Compare(x.ID, y.ID)
	})
	return all
}

// named returns the machine of that name. The caller holds d.mu.
func (d *Daemon) named(name string) *machine {
	for _, m := range d.vms {
		if m.look().rec.Name == name {
			return m
		}
	}
	return nil
}

// taken reports whether a VM has that name.
func (d *Daemon) taken(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.named(name) != nil
}

// forget takes a machine out of the list.
func (d *Daemon) forget(m *machine) {
	d.mu.Lock()
	delete(d.vms, m.id)
	d.mu.Unlock()
	m.set(func() { m.gone = true })
}

// resolve finds a VM by full id, name, or unique prefix of its id.
func (d *Daemon) resolve(ref string) (*machine, error) {
	if ref == "" {
		return nil, banger.Errorf(banger.CodeUsage, "which VM? a name or an id is missing").WithHint("banger vm list -a")
	}
	var byPrefix []*machine
	for _, m := range d.all() {
		switch rec := m.look().rec; {
		case rec.ID == ref || rec.Name == ref:
			return m, nil
		case strings.HasPrefix(rec.ID, ref):
			byPrefix = append(byPrefix, m)
		}
	}
	switch len(byPrefix) {
	case 0:
		return nil, banger.Errorf(banger.CodeNotFound, "vm %q does not exist", ref).WithHint("banger vm list -a")
	case 1:
		return byPrefix[0], nil
	}
	return nil, banger.Errorf(banger.CodeUsage, "vm %q is ambiguous: %s", ref, candidates(byPrefix)).WithHint("a longer id, or the name")
}

// maxCandidates bounds how many VMs an error names.
const maxCandidates = 8

func candidates(list []*machine) string {
	var names []string
	for _, m := range list[:min(len(list), maxCandidates)] {
		rec := m.look().rec
		names = append(names, rec.Name+" ("+banger.ShortID(rec.ID)+")")
	}
	if len(list) > maxCandidates {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}

// userKey is the line by which the user is let into guests; the key is made on
// first use.
func (d *Daemon) userKey() (string, error) {
	cfg, err := d.opts.Config()
	if err != nil {
		return "", err
	}
	return sshkey.Ensure(or(cfg.SSHKeyPath, d.opts.Home.SSHKey()))
}

// writeKnownHosts writes the host keys of all VMs for ssh clients.
func (d *Daemon) writeKnownHosts() error {
	d.writingHosts.Lock()
	defer d.writingHosts.Unlock()
	var hosts []sshkey.Host
	for _, m := range d.all() {
		if now := m.look(); !now.gone {
			hosts = append(hosts, sshkey.Host{ID: now.rec.ID, Name: now.rec.Name, Key: now.rec.HostKey})
		}
	}
	return sshkey.WriteKnownHosts(d.opts.Home.KnownHosts(), hosts)
}
