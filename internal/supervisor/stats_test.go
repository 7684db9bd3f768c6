package supervisor

import (
	"os"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"

	vmv1 "github.com/banger-dev/banger/api/vm/v1"
)

// TestStats: what a guest says of itself is believed within what can be, and left out
// while it stands still.
func TestStats(t *testing.T) {
	dir := instance(t)
	spec, err := loadSpec(dir)
	if err != nil {
		t.Fatal(err)
	}
	spec.OverlayDisk, spec.WorkDisk = dir.Overlay(), dir.Work()
	for _, path := range []string{spec.OverlayDisk, spec.WorkDisk} {
		if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data, err := protojson.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir.Spec(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	launch(t, dir)
	await(t, dir, ready)
	res, err := client(dir).Stats(t.Context(), connect.NewRequest(&vmv1.StatsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	s := res.Msg
	if s.TakenNs == 0 || s.VmmMemoryBytes == 0 || s.SupervisorMemoryBytes == 0 || s.DiskBytes < 8192 {
		t.Errorf("%v", s)
	}
	g := s.Guest
	if g == nil || g.CpuMs != 0 || g.MemoryAvailableBytes != 100 || g.WorkUsedBytes != 0 || g.WorkTotalBytes != 0 || g.OverlayUsedBytes != 3 {
		t.Errorf("%v", g)
	}
	if _, err := client(dir).Pause(t.Context(), connect.NewRequest(&vmv1.PauseRequest{})); err != nil {
		t.Fatal(err)
	}
	res, err = client(dir).Stats(t.Context(), connect.NewRequest(&vmv1.StatsRequest{}))
	if err != nil || res.Msg.Guest != nil || res.Msg.GuestError != errPaused.Error() {
		t.Errorf("%v, %v", res, err)
	}
	health, err := client(dir).Health(t.Context(), connect.NewRequest(&vmv1.HealthRequest{}))
	if err == nil {
		t.Errorf("a paused guest is healthy: %v", health)
	}
}
