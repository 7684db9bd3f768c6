package daemon

import (
	"errors"
	"net/netip"
	"os"
	"syscall"

	"github.com/banger-dev/banger/internal/vmdns"
)

// resolvConf is where the host says who answers names.
const resolvConf = "/etc/resolv.conf"

// names is where the names of VMs are answered: by server, or err says why not.
type names struct {
	server *vmdns.Server
	err    string
}

// startNetwork finds the range of the VMs' addresses, and begins to answer their
// names, until stop. Where that cannot be, all else goes on, and doctor says why.
func (d *Daemon) startNetwork() (stop func()) {
	stop = func() {}
	cfg, err := d.opts.Config()
	d.addresses = cfg.Network.Addresses(os.Getuid())
	if err != nil {
		d.names.err = err.Error()
		return stop
	}
	at := cfg.Network.DNS(os.Getuid())
	d.names.server, err = vmdns.Listen(vmdns.Options{Address: at, Lookup: d.addressOf, ResolvConf: resolvConf, Log: d.log})
	switch {
	case err == nil:
		return d.names.server.Close
	case errors.Is(err, syscall.EADDRINUSE):
		d.names.err = at.String() + " is taken by another program, maybe by the daemon of another BANGER_HOME"
	default:
		d.names.err = err.Error()
	}
	d.log.Warn("the names of VMs are not answered", "at", at, "error", err)
	return stop
}

// dnsAddress is where names are answered; empty: nowhere.
func (d *Daemon) dnsAddress() string {
	if d.names.server == nil {
		return ""
	}
	return d.names.server.Address.String()
}

// addressOf finds the address of a VM by its name or its id.
func (d *Daemon) addressOf(name string) (netip.Addr, bool) {
	d.mu.Lock()
	m := d.vms[name]
	if m == nil {
		m = d.named(name)
	}
	d.mu.Unlock()
	if m == nil {
		return netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(m.look().rec.Address)
	return addr, err == nil
}
