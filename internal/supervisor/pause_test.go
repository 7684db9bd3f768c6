package supervisor

import (
	"context"
	"testing"

	"connectrpc.com/connect"

	vmv1 "github.com/banger-dev/banger/api/vm/v1"
)

func isPaused(r *vmv1.StatusResponse) bool { return r.State == statePaused }

// TestPauseOutlivesTheSupervisor: a successor keeps the guest where it is, and the
// guest answers again after Resume.
func TestPauseOutlivesTheSupervisor(t *testing.T) {
	dir := instance(t)
	cmd := launch(t, dir)
	await(t, dir, ready)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for range 2 {
		if _, err := client(dir).Pause(ctx, connect.NewRequest(&vmv1.PauseRequest{})); err != nil {
			t.Fatal(err)
		}
	}
	before := await(t, dir, isPaused)
	if _, err := client(dir).Signal(ctx, connect.NewRequest(&vmv1.SignalRequest{Signal: 1})); err == nil {
		t.Error("a paused guest takes a signal")
	}
	cmd.Process.Kill()
	cmd.Wait()
	launch(t, dir, "--adopt")
	after := await(t, dir, isPaused)
	if after.VmmPid != before.VmmPid || !after.Successor {
		t.Errorf("before %v, after %v", before, after)
	}
	if _, err := client(dir).Resume(ctx, connect.NewRequest(&vmv1.ResumeRequest{})); err != nil {
		t.Fatal(err)
	}
	await(t, dir, ready)
	if _, err := client(dir).Stop(ctx, connect.NewRequest(&vmv1.StopRequest{})); err != nil {
		t.Error(err)
	}
}

// TestPausedGuestStops: it goes on to shut down cleanly.
func TestPausedGuestStops(t *testing.T) {
	dir := instance(t)
	launch(t, dir)
	await(t, dir, ready)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if _, err := client(dir).Pause(ctx, connect.NewRequest(&vmv1.PauseRequest{})); err != nil {
		t.Fatal(err)
	}
	stopped, err := client(dir).Stop(ctx, connect.NewRequest(&vmv1.StopRequest{}))
	if err != nil || !stopped.Msg.Clean {
		t.Errorf("%v, %v", stopped, err)
	}
}
