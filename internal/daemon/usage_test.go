package daemon_test

import (
	"testing"

	"connectrpc.com/connect"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

func TestDiskUsage(t *testing.T) {
	h := newHost(t).start()
	h.run("up")
	h.run("down")
	if err := h.stopVM("down"); err != nil {
		t.Fatal(err)
	}
	r, err := h.client.DiskUsage(t.Context(), connect.NewRequest(&bangerv1.DiskUsageRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	uses := map[string]*bangerv1.DiskUse{}
	for _, u := range r.Msg.Uses {
		uses[u.Kind+" "+u.Name] = u
		if u.Bytes <= 0 {
			t.Errorf("%v", u)
		}
	}
	for name, reclaimable := range map[string]bool{"vm up": false, "vm down": true, "image debian-bookworm": false, "kernel debian-6.1": false} {
		if u := uses[name]; u == nil || u.Reclaimable != reclaimable {
			t.Errorf("%s: %v", name, u)
		}
	}
	if r.Msg.FreeBytes <= 0 || r.Msg.TotalBytes < r.Msg.FreeBytes {
		t.Errorf("free %d of %d", r.Msg.FreeBytes, r.Msg.TotalBytes)
	}
}
