// Package tracerpc brings the spans of a trace home over Connect calls: a call
// whose context has a recorder asks for them, and its answer carries them in a
// trailer, also when the call failed. So a trace is kept by nobody but the calls
// that are part of it, and is gone when they are.
package tracerpc

import (
	"context"
	"errors"
	"net/http"
	"path"
	"sync"

	"connectrpc.com/connect"

	"github.com/banger-dev/banger/internal/trace"
)

const (
	// ask is the header of a call that is traced.
	ask = "Banger-Trace"
	// answer is the trailer with the spans.
	answer = "Banger-Spans-Bin"
)

// Client returns the interceptor of who calls. Each call is a span of its own.
func Client() connect.Interceptor { return client{} }

type client struct{}

// WrapUnary implements connect.Interceptor.
func (client) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		r := trace.From(ctx)
		if r == nil || !req.Spec().IsClient {
			return next(ctx, req)
		}
		mark := r.Begin(callName(req.Spec()))
		defer mark.End()
		req.Header().Set(ask, "1")
		res, err := next(ctx, req)
		var failed *connect.Error
		switch {
		case errors.As(err, &failed):
			take(r, failed.Meta())
		case err == nil:
			take(r, res.Trailer())
		}
		return res, err
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (client) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		r := trace.From(ctx)
		if r == nil {
			return conn
		}
		conn.RequestHeader().Set(ask, "1")
		return &clientConn{StreamingClientConn: conn, recorder: r, mark: r.Begin(callName(spec))}
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (client) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// callName is a call in a trace.
func callName(spec connect.Spec) string { return "call " + path.Base(spec.Procedure) }

// clientConn is a stream whose end brings spans.
type clientConn struct {
	connect.StreamingClientConn
	recorder *trace.Recorder
	mark     trace.Mark
	ended    sync.Once
}

// Receive implements connect.StreamingClientConn.
func (c *clientConn) Receive(message any) error {
	err := c.StreamingClientConn.Receive(message)
	if err != nil {
		c.end()
	}
	return err
}

// CloseResponse implements connect.StreamingClientConn.
func (c *clientConn) CloseResponse() error {
	defer c.end()
	return c.StreamingClientConn.CloseResponse()
}

func (c *clientConn) end() {
	c.ended.Do(func() {
		c.mark.End()
		take(c.recorder, c.ResponseTrailer())
	})
}

// take adds the spans that came with an answer. What cannot be read is left out:
// a trace is no reason to fail.
func take(r *trace.Recorder, trailer http.Header) {
	for _, text := range trailer.Values(answer) {
		data, err := connect.DecodeBinaryHeader(text)
		if err != nil {
			continue
		}
		if spans, err := trace.Decode(data); err == nil {
			r.Add(spans...)
		}
	}
}

// Server returns the interceptor of who answers, as the process of that name. own,
// if not nil, is the recorder of everything that the process does; without one,
// each call that asks for it has its own, which ends with it. It is the outermost
// interceptor, so that errors have their code already.
func Server(process string, own *trace.Recorder) connect.Interceptor {
	return &server{process, own}
}

type server struct {
	process string
	own     *trace.Recorder
}

// begin returns the context of a call, and what its trailer holds at the end.
func (s *server) begin(ctx context.Context, header http.Header, spec connect.Spec) (context.Context, func(http.Header)) {
	asked := header.Get(ask) != ""
	if s.own != nil && !asked {
		return trace.With(ctx, s.own), func(http.Header) {}
	}
	if !asked {
		return ctx, func(http.Header) {}
	}
	r, spans := s.own, s.own.Spans
	if r == nil {
		r = trace.NewRecorder(s.process, trace.MaxSpans)
		spans = r.Close
	}
	mark := r.Begin(path.Base(spec.Procedure))
	return trace.With(ctx, r), func(trailer http.Header) {
		mark.End()
		if data, err := trace.Encode(spans()); err == nil {
			trailer.Set(answer, connect.EncodeBinaryHeader(data))
		}
	}
}

// WrapUnary implements connect.Interceptor.
func (s *server) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, end := s.begin(ctx, req.Header(), req.Spec())
		res, err := next(ctx, req)
		var failed *connect.Error
		switch {
		case errors.As(err, &failed):
			end(failed.Meta())
		case err != nil:
			end(http.Header{})
		default:
			end(res.Trailer())
		}
		return res, err
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (s *server) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (s *server) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		ctx, end := s.begin(ctx, conn.RequestHeader(), conn.Spec())
		err := next(ctx, conn)
		end(conn.ResponseTrailer())
		return err
	}
}
