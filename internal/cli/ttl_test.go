package cli

import (
	"strings"
	"testing"
	"time"
)

func TestTTL(t *testing.T) {
	d := newFakeDaemon(t)
	w := newWorld(t, d, "")
	w.expect(t, w.run("vm", "create", "--name", "dev", "--ttl", "1d12h"), 0, "dev\n", "")
	if ms := d.created.TtlMs; ms != (36 * time.Hour).Milliseconds() {
		t.Errorf("the daemon is asked for %d ms", ms)
	}
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "create", "--ttl", "soon"), 2, "", `--ttl "soon" is not a time such as 90s, 2h or 7d; try: --ttl 2h`)

	now := time.Unix(1e9, 0)
	d.vms[0].ExpiresUnixMs = now.Add(90 * time.Minute).UnixMilli()
	w = newWorld(t, d, "")
	w.app.Now = func() time.Time { return now }
	w.expect(t, w.run("vm", "show", "dev"), 0, "", "")
	if want := "deleted:      2001-09-09T03:16:40Z (in 1h30m)\n"; !strings.Contains(w.out.String(), want) {
		t.Errorf("%q is not in %s", want, w.out.String())
	}
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "list", "--json"), 0, "", "")
	if want := `"expires": "2001-09-09T03:16:40Z"`; !strings.Contains(w.out.String(), want) {
		t.Errorf("%s is not in %s", want, w.out.String())
	}
}
