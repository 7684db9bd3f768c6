package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
)

const full = `
default_image_name = "debian-trixie"
ssh_key_path = "keys/id"
qemu_bin = "/opt/qemu"
driver = "qemu"
accel = "tcg"
require_confinement = true
mirror = "http://debian.example/debian"
template_cache_size = "3G"

[vm_defaults]
vcpu = 2
memory = "3G"
disk_size = "20G"
system_overlay_size = "4GiB"
nat = false

[network]
dns_upstream = "127.0.0.1:5353"
allow_private = ["10.0.0.0/8", "192.168.1.1"]
address_range = "127.80.0.0/16"
dns_port = 5300
`

func TestParseFull(t *testing.T) {
	cfg, err := Parse("/etc/x/config.toml", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.SSHKeyPath != "/etc/x/keys/id" {
		t.Errorf("ssh_key_path is %q", cfg.SSHKeyPath)
	}
	got := Resolve(cfg, Host{CPUs: 64, MemoryBytes: 64 * banger.GiB})
	c := banger.OriginConfig
	want := Defaults{
		Image: Value[string]{"debian-trixie", c}, VCPU: Value[int]{2, c},
		MemoryMiB: Value[int64]{3072, c}, DiskBytes: Value[int64]{20 * banger.GiB, c},
		OverlayBytes: Value[int64]{4 * banger.GiB, c}, NAT: Value[bool]{false, c},
		Driver: Value[string]{"qemu", c}, Accel: Value[string]{"tcg", c},
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestResolveFromHost(t *testing.T) {
	for _, tc := range []struct {
		host   Host
		vcpu   int
		memory int64
	}{
		{Host{1, banger.GiB}, 1, 256},
		{Host{2, 4 * banger.GiB}, 1, 1024},
		{Host{8, 16 * banger.GiB}, 2, 2048},
		{Host{16, 32 * banger.GiB}, 4, 4096},
		{Host{128, 512 * banger.GiB}, 4, 8192},
	} {
		d := Resolve(Config{}, tc.host)
		if d.VCPU.Value != tc.vcpu || d.MemoryMiB.Value != tc.memory {
			t.Errorf("%+v: %d vcpu, %d MiB; want %d, %d", tc.host, d.VCPU.Value, d.MemoryMiB.Value, tc.vcpu, tc.memory)
		}
		if d.VCPU.Origin != banger.OriginAuto || d.DiskBytes.Origin != banger.OriginBuiltin {
			t.Errorf("origins are %+v", d)
		}
	}
}

func TestErrorsNameFileLineAndKey(t *testing.T) {
	for text, want := range map[string][]string{
		"driver = \"qemu\"\n\nacell = \"tcg\"\n":    {"/c.toml, line 3", `"acell"`, "try: accel"},
		"[vm_defaults]\nmemroy = 1\n":               {"line 2", `"vm_defaults.memroy"`, "vm_defaults.memory"},
		"vcpu = 3\n":                                {"line 1", `"vcpu"`, "vm_defaults.vcpu"},
		"[vm_default]\nnat = true\n":                {"line", "vm_default", "vm_defaults.nat"},
		"driver = 3\n":                              {"line 1"},
		"driver = \n":                               {"line 1"},
		"driver = \"xen\"\n":                        {"driver", "xen", "auto, qemu"},
		"[vm_defaults]\nmemory = \"lots\"\n":        {"vm_defaults.memory", "lots"},
		"[vm_defaults]\ndisk_size = \"8\"\n":        {"disk_size", "no unit"},
		"[vm_defaults]\nvcpu = -1\n":                {"vcpu"},
		"[network]\nallow_private = [\"lan\"]\n":    {"allow_private", "lan"},
		"[network]\ndns_port = 65536\n":             {"dns_port", "65536"},
		"[network]\naddress_range = \"10.0.0.0/8\"": {"address_range", "127.0.0.0/8"},
		"[network]\ndns_upstream = \"1.1.1.1\"":     {"dns_upstream", "address:port"},
	} {
		_, err := Parse("/c.toml", []byte(text))
		if banger.CodeOf(err) != banger.CodeUsage {
			t.Errorf("%q: %v", text, err)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %q does not say %q", text, err, w)
			}
		}
		if strings.Count(err.Error(), "\n") > 1 {
			t.Errorf("%q: more than two lines: %q", text, err)
		}
	}
}

func TestLoad(t *testing.T) {
	home := layout.Home{Config: t.TempDir()}
	if cfg, err := Load(home); err != nil || !reflect.DeepEqual(cfg, Config{}) {
		t.Errorf("no file: %+v, %v", cfg, err)
	}
	os.WriteFile(home.ConfigFile(), []byte("ssh_key_path = \"~/k\""), 0o600)
	t.Setenv("HOME", "/home/me")
	if cfg, err := Load(home); err != nil || cfg.SSHKeyPath != filepath.Join("/home/me", "k") {
		t.Errorf("%+v, %v", cfg, err)
	}
}

// The list of keys, written by hand to keep reflection out of the program,
// says what the struct says.
func TestKeysAreComplete(t *testing.T) {
	var want []string
	var walk func(prefix string, typ reflect.Type)
	walk = func(prefix string, typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			key := prefix + f.Tag.Get("toml")
			if f.Type.Kind() == reflect.Struct {
				walk(key+".", f.Type)
				continue
			}
			want = append(want, key)
		}
	}
	walk("", reflect.TypeFor[Config]())
	if got := Keys(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("Keys() = %v\nwant %v", got, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("a.b.c = 1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse("/c.toml", data)
		if err != nil && banger.CodeOf(err) != banger.CodeUsage {
			t.Errorf("%v has code %s", err, banger.CodeOf(err))
		}
		if err == nil {
			Resolve(cfg, Host{CPUs: 1, MemoryBytes: 1 << 30})
		}
	})
}

func TestSpareBytes(t *testing.T) {
	for text, want := range map[string]map[int64]Value[int64]{
		"":                          {16 * banger.GiB: {2 * banger.GiB, banger.OriginAuto}, 2 * banger.GiB: {0, banger.OriginAuto}, 0: {0, banger.OriginAuto}},
		"[spares]\nmemory = \"1G\"": {2 * banger.GiB: {banger.GiB, banger.OriginConfig}},
		"[spares]\nmemory = \"0M\"": {64 * banger.GiB: {0, banger.OriginConfig}},
	} {
		cfg, err := Parse("config.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		for memory, bytes := range want {
			if got := SpareBytes(cfg, Host{MemoryBytes: memory}); got != bytes {
				t.Errorf("%q with %d bytes: %v, want %v", text, memory, got, bytes)
			}
		}
	}
	for _, bad := range []string{"[spares]\nmemory = \"much\"", "[spares]\nmemory = 3", "[spares]\ncount = 3"} {
		if _, err := Parse("config.toml", []byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	if n, err := MemoryAvailable(); err != nil || n <= 0 {
		t.Errorf("available: %d, %v", n, err)
	}
}
