package tracerpc

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/banger-dev/banger/internal/trace"
)

// serve answers with work, as a process called server, once as a call and once as
// a stream.
func serve(t *testing.T, own *trace.Recorder, work func(context.Context) error) (call, stream func(context.Context) error) {
	mux := http.NewServeMux()
	option := connect.WithInterceptors(Server("server", own))
	mux.Handle("/s/Call", connect.NewUnaryHandler("/s/Call", func(ctx context.Context, _ *connect.Request[emptypb.Empty]) (*connect.Response[emptypb.Empty], error) {
		return connect.NewResponse(&emptypb.Empty{}), work(ctx)
	}, option))
	mux.Handle("/s/Stream", connect.NewServerStreamHandler("/s/Stream", func(ctx context.Context, _ *connect.Request[emptypb.Empty], out *connect.ServerStream[emptypb.Empty]) error {
		return errors.Join(out.Send(&emptypb.Empty{}), work(ctx))
	}, option))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	client := func(name string) *connect.Client[emptypb.Empty, emptypb.Empty] {
		return connect.NewClient[emptypb.Empty, emptypb.Empty](server.Client(), server.URL+name, connect.WithInterceptors(Client()))
	}
	call = func(ctx context.Context) error {
		_, err := client("/s/Call").CallUnary(ctx, connect.NewRequest(&emptypb.Empty{}))
		return err
	}
	stream = func(ctx context.Context) error {
		s, err := client("/s/Stream").CallServerStream(ctx, connect.NewRequest(&emptypb.Empty{}))
		if err != nil {
			return err
		}
		defer s.Close()
		for s.Receive() {
		}
		return s.Err()
	}
	return call, stream
}

// names are those of what a recorder has kept, in order of their ends.
func names(spans []trace.Span) (list []string) {
	slices.SortFunc(spans, func(a, b trace.Span) int { return int(a.End - b.End) })
	for _, s := range spans {
		list = append(list, s.Process+" "+s.Name)
	}
	return list
}

// TestSpansComeHome: with the answer of a call and of a stream, also of one that
// failed.
func TestSpansComeHome(t *testing.T) {
	for _, fails := range []bool{false, true} {
		call, stream := serve(t, nil, func(ctx context.Context) error {
			trace.Begin(ctx, "work").End()
			if fails {
				return connect.NewError(connect.CodeNotFound, errors.New("no"))
			}
			return nil
		})
		for name, do := range map[string]func(context.Context) error{"Call": call, "Stream": stream} {
			r := trace.NewRecorder("client", 100)
			if err := do(trace.With(t.Context(), r)); (err != nil) != fails {
				t.Fatal(err)
			}
			want := []string{"server work", "server " + name, "client call " + name}
			if got := names(r.Close()); !slices.Equal(got, want) {
				t.Errorf("%s, fails %v: %q, not %q", name, fails, got, want)
			}
		}
	}
}

// TestNobodyAsks: without a trace there is no recorder and nothing in the answer.
func TestNobodyAsks(t *testing.T) {
	call, stream := serve(t, nil, func(ctx context.Context) error {
		if trace.From(ctx) != nil {
			t.Error("a call that nobody traces has a recorder")
		}
		return nil
	})
	if err := errors.Join(call(t.Context()), stream(t.Context())); err != nil {
		t.Error(err)
	}
}

// TestOwnRecorder: a process that records all the time gives all it has, and goes
// on.
func TestOwnRecorder(t *testing.T) {
	own := trace.NewRecorder("server", 100)
	own.Begin("before").End()
	call, _ := serve(t, own, func(ctx context.Context) error { trace.Begin(ctx, "work").End(); return nil })
	if err := call(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := trace.NewRecorder("client", 100)
	if err := call(trace.With(t.Context(), r)); err != nil {
		t.Fatal(err)
	}
	want := []string{"server before", "server work", "server work", "server Call", "client call Call"}
	if got := names(r.Close()); !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
	if got := names(own.Spans()); len(got) != 4 {
		t.Errorf("it has kept %q", got)
	}
}

// TestBadAnswers: what is no list of spans costs the trace, not the call.
func TestBadAnswers(t *testing.T) {
	r := trace.NewRecorder("client", 100)
	for _, bad := range []string{"%", connect.EncodeBinaryHeader([]byte("x")), connect.EncodeBinaryHeader([]byte(`[{"s":-1}]`))} {
		take(r, http.Header{answer: {bad}})
	}
	if got := r.Spans(); len(got) != 0 {
		t.Errorf("taken: %v", got)
	}
}
