package fault

import "testing"

func TestPoint(t *testing.T) {
	t.Setenv("BANGER_FAULT", "a=error,b=kill-peer,c=nonsense")
	for name, wantErr := range map[string]bool{"a": true, "b": false, "c": true, "d": false} {
		if err := Point(name); (err != nil) != (wantErr && Enabled) {
			t.Errorf("Point(%q) = %v in a build with Enabled = %v", name, err, Enabled)
		}
	}
}
