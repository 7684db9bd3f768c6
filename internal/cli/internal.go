package cli

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/stream"
	"github.com/banger-dev/banger/internal/cli/tty"
)

// proxyOptions are the arguments of internal proxy.
type proxyOptions struct {
	app  *App
	host string
}

// newInternal holds what other programs call, not people.
func (a *App) newInternal() *cobra.Command {
	cmd := newGroup("internal", "What other programs call", "banger internal proxy dev.vm")
	cmd.Hidden = true
	cmd.AddCommand(a.newProxy(nil))
	return cmd
}

func (a *App) newProxy(run func(context.Context, *proxyOptions) error) *cobra.Command {
	opts := &proxyOptions{app: a}
	if run == nil {
		run = runProxy
	}
	return &cobra.Command{
		Use: "proxy HOST", Short: "Connect stdin and stdout to a VM's SSH server (ssh's ProxyCommand)", Args: exactly(1, "HOST"),
		Example: examples("ssh -o ProxyCommand='banger internal proxy %n' dev.vm"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.host = args[0]
			return run(cmd.Context(), opts)
		},
	}
}

func runProxy(ctx context.Context, opts *proxyOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	link, err := c.LinkVM(ctx, strings.TrimSuffix(opts.host, banger.NameSuffix), linkTime)
	if err != nil {
		return err
	}
	conn, err := c.Dialer(link.Vm.Id, link.LinkSocket, stream.PortSSH)(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := a.splice(conn); err != nil && ctx.Err() == nil {
		return err
	}
	return nil // ssh ends its proxy by a signal
}

// spliceBuffer is large, because a copy through a pipe costs a switch of
// processes each time.
const spliceBuffer = 256 << 10

// splice copies stdin to conn and conn to stdout, until conn ends.
func (a *App) splice(conn net.Conn) error {
	in := a.IO.In
	var input sync.WaitGroup
	copyIn := func() {
		io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{in}, make([]byte, spliceBuffer))
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	}
	if f, ok := in.(*os.File); ok {
		interruptible, err := tty.NewInput(f)
		if err != nil {
			return err
		}
		defer interruptible.Close()
		defer input.Wait()
		defer interruptible.Interrupt()
		in = interruptible
		input.Go(copyIn)
	} else {
		go copyIn() // it ends with its reader, which nobody can interrupt
	}
	_, err := io.CopyBuffer(struct{ io.Writer }{a.IO.Out}, struct{ io.Reader }{conn}, make([]byte, spliceBuffer))
	return err
}
