package usage

import "testing"

func TestRead(t *testing.T) {
	u, err := Read()
	if err != nil || u.CpuMs <= 0 || u.MemoryTotalBytes <= u.MemoryAvailableBytes || u.MemoryAvailableBytes <= 0 ||
		u.Processes <= 0 || u.OverlayTotalBytes <= u.OverlayUsedBytes {
		t.Errorf("%v, %v", u, err)
	}
}

func TestBusy(t *testing.T) {
	for text, want := range map[string]int64{
		"cpu  1 2 3 1000 1000 4 5 6 99 99\ncpu0 1 1 1\n": 210, "cpu 7": 70, "cpu": 0, "": 0, "intr 5": 0, "cpu x 1": 10,
	} {
		if got := busy([]byte(text)); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestMemory(t *testing.T) {
	total, available := memory([]byte("MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\nBad\nMemTotalX: 9 kB\n"))
	if total != 2<<20 || available != 1<<20 {
		t.Errorf("%d, %d", total, available)
	}
}
