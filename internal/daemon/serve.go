package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	"github.com/banger-dev/banger/api/banger/v1/bangerv1connect"
	"github.com/banger-dev/banger/internal/trace/tracerpc"
)

const (
	// maxRequest bounds one request in bytes.
	maxRequest = 1 << 20
	// drain bounds the wait for requests at the end: each is cancelled and has
	// undoTimeout to clean up.
	drain = undoTimeout + 5*time.Second
)

// serve answers requests until ctx ends, then until those under way have ended.
func (d *Daemon) serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle(bangerv1connect.NewBangerHandler(api{d: d},
		connect.WithReadMaxBytes(maxRequest),
		connect.WithInterceptors(tracerpc.Server("bangerd", nil), &errorCoder{d, ctx}),
		connect.WithRecover(d.recovered)))
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler: stamped(mux), Protocols: protocols, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err := server.Shutdown(limit); err != nil {
		d.log.Warn("requests do not end; they are dropped", "error", err)
		server.Close()
	}
	<-ended
	return nil
}

// stamped has every answer say the daemon's build.
func stamped(next http.Handler) http.Handler {
	build := banger.BuildStamp().Header()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(banger.BuildHeader, build)
		next.ServeHTTP(w, r)
	})
}

// recovered turns a bug of ours into an error of one request.
func (d *Daemon) recovered(_ context.Context, spec connect.Spec, _ http.Header, value any) error {
	d.log.Error("a request crashed", "procedure", spec.Procedure, "panic", value, "stack", string(debug.Stack()))
	return apierr.ToConnect(banger.Errorf(banger.CodeFailed, "the daemon made a mistake in %s: %v", spec.Procedure, value).
		WithHint("banger daemon logs"))
}

// errorCoder gives every error that leaves the daemon its code and detail.
type errorCoder struct {
	d       *Daemon
	serving context.Context
}

func (e *errorCoder) encode(spec connect.Spec, err error) error {
	if err == nil {
		return nil
	}
	if e.serving.Err() != nil && errors.Is(err, context.Canceled) {
		err = banger.Errorf(banger.CodeUnavailable, "the daemon was stopped meanwhile; what had begun is undone").
			WithHint("the same command again")
	}
	if code := banger.CodeOf(err); code == banger.CodeFailed {
		e.d.log.Error("a request failed", "procedure", spec.Procedure, "error", err)
	}
	return apierr.ToConnect(err)
}

// WrapUnary implements connect.Interceptor.
func (e *errorCoder) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		response, err := next(ctx, req)
		if err != nil {
			return nil, e.encode(req.Spec(), err)
		}
		return response, nil
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (e *errorCoder) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (e *errorCoder) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return e.encode(conn.Spec(), next(ctx, conn))
	}
}
