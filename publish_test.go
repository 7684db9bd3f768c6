package banger

import "testing"

func TestParsePublish(t *testing.T) {
	for text, want := range map[string]string{
		"8080:80":         "127.0.0.1:8080:80",
		"80:80":           "127.0.0.1:80:80",
		"0.0.0.0:8080:80": "0.0.0.0:8080:80",
		"[::1]:8080:80":   "[::1]:8080:80",
		"[::]:1:65535":    "[::]:1:65535",
	} {
		p, err := ParsePublish(text)
		if err != nil || p.String() != want {
			t.Errorf("%s: %v, %v", text, p, err)
		}
	}
	for _, text := range []string{"", "80", ":80", "80:", "0:80", "80:0", "65536:1", "a:b:c", "::1:80:80", "[1.2.3.4]:80:80", "localhost:80:80", "-1:80", "1:+2"} {
		if p, err := ParsePublish(text); CodeOf(err) != CodeUsage {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
}

func FuzzParsePublish(f *testing.F) {
	f.Add("[::1]:8080:80")
	f.Add("8080:80")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePublish(text)
		if err != nil {
			return
		}
		if again, err := ParsePublish(p.String()); err != nil || again != p {
			t.Errorf("%q: %v became %v, %v", text, p, again, err)
		}
	})
}
