// Package config reads the user's config.toml, strictly, and resolves the
// defaults of a VM from it and from the host.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
)

// maxFile bounds config.toml in bytes.
const maxFile = 1 << 20

// Config is what config.toml says. The zero value is an empty file.
type Config struct {
	DefaultImageName string `toml:"default_image_name"`
	// SSHKeyPath is absolute once loaded; empty: layout's own path.
	SSHKeyPath string `toml:"ssh_key_path"`
	// QEMUBin is a path or a name in PATH; empty: qemu-system-<arch>.
	QEMUBin string `toml:"qemu_bin"`
	// Driver is "auto" or "qemu"; Accel "auto", "kvm" or "tcg"; empty: auto.
	Driver string `toml:"driver"`
	Accel  string `toml:"accel"`
	// RequireConfinement refuses to start a VM with less than the full set.
	RequireConfinement bool `toml:"require_confinement"`
	// Mirror replaces the Debian mirror that images and kernels come from.
	Mirror string `toml:"mirror"`
	// TemplateCacheSize is a size such as "8G", "0M" for no templates; empty:
	// derived from the file system.
	TemplateCacheSize string     `toml:"template_cache_size"`
	Spares            Spares     `toml:"spares"`
	VMDefaults        VMDefaults `toml:"vm_defaults"`
	Network           Network    `toml:"network"`
}

// VMDefaults is the table [vm_defaults]. Zero values mean "not set".
type VMDefaults struct {
	VCPU int64 `toml:"vcpu"`
	// Memory is a string with a unit, or an integer in MiB.
	Memory            any    `toml:"memory"`
	DiskSize          string `toml:"disk_size"`
	SystemOverlaySize string `toml:"system_overlay_size"`
	NAT               *bool  `toml:"nat"`
}

// Spares is the table [spares].
type Spares struct {
	// Memory is what all spares may take of the host's memory, such as "2G", and
	// "0M" for no spares; empty: derived from the host.
	Memory string `toml:"memory"`
}

// bytes is -1 where the key is not set.
func (s Spares) bytes() (int64, error) {
	if s.Memory == "" {
		return -1, nil
	}
	return banger.ParseSize(s.Memory)
}

// Network is the table [network].
type Network struct {
	// DNSUpstream is host:port of the server that guests' names are asked of;
	// empty: the host's own.
	DNSUpstream string `toml:"dns_upstream"`
	// AllowPrivate are addresses and networks that guests may reach although
	// they lie in a range that is refused otherwise.
	AllowPrivate []string `toml:"allow_private"`
	// AddressRange is the network in 127.0.0.0/8 that VMs get their addresses on
	// this host from; empty: a share of 127.77.0.0/16 by uid.
	AddressRange string `toml:"address_range"`
	// DNSPort is where names in .vm are answered; 0: 5377, or 53 for root.
	DNSPort int64 `toml:"dns_port"`
}

// Load reads config.toml. A file that does not exist is an empty one; anything
// in it that is not understood is a usage error that names file and line.
func Load(home layout.Home) (Config, error) {
	path := home.ConfigFile()
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, nil
	}
	if err != nil {
		return Config{}, banger.Errorf(banger.CodeUsage, "config %s cannot be read: %w", path, err).WithHint("ls -l %s", path)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Config{}, banger.Errorf(banger.CodeUsage, "config %s cannot be read: %w", path, err).WithHint("ls -l %s", path)
	}
	return Parse(path, data)
}

// Parse decodes the bytes of a config file; path is for messages and for
// relative paths in it.
func Parse(path string, data []byte) (Config, error) {
	if len(data) > maxFile {
		return Config{}, banger.Errorf(banger.CodeUsage, "config %s is larger than 1 MiB", path).WithHint("edit %s", path)
	}
	var cfg Config
	decoder := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := decoder.Decode(&cfg); err != nil {
		return Config{}, decodeError(path, err)
	}
	if err := cfg.check(); err != nil {
		return Config{}, banger.Errorf(banger.CodeUsage, "config %s: %w", path, err).WithHint("edit %s", path)
	}
	cfg.SSHKeyPath = expand(filepath.Dir(path), cfg.SSHKeyPath)
	return cfg, nil
}

func decodeError(path string, err error) error {
	if missing, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(missing.Errors) > 0 {
		first := missing.Errors[0]
		row, _ := first.Position()
		key := strings.Join(first.Key(), ".")
		return banger.Errorf(banger.CodeUsage, "config %s, line %d: unknown key %q", path, row, key).
			WithHint("%s, the nearest known key", Nearest(key))
	}
	if bad, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, _ := bad.Position()
		where := fmt.Sprintf("config %s, line %d", path, row)
		if key := strings.Join(bad.Key(), "."); key != "" {
			where += fmt.Sprintf(", key %q", key)
		}
		return banger.Errorf(banger.CodeUsage, "%s: %s", where, strings.TrimPrefix(bad.Error(), "toml: ")).WithHint("edit %s", path)
	}
	return banger.Errorf(banger.CodeUsage, "config %s: %w", path, err).WithHint("edit %s", path)
}

// expand makes a path absolute: ~/ is the user's home, anything else relative
// is relative to the config directory.
func expand(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return filepath.Join(dir, path)
}

// check validates the values; the first that is wrong is the error.
func (c Config) check() error {
	if c.DefaultImageName != "" {
		if err := banger.CheckName("default_image_name: image", c.DefaultImageName); err != nil {
			return err
		}
	}
	if err := oneOf("driver", c.Driver, "auto", "qemu"); err != nil {
		return err
	}
	if err := oneOf("accel", c.Accel, "auto", "kvm", "tcg"); err != nil {
		return err
	}
	if c.Mirror != "" && !strings.Contains(c.Mirror, "://") {
		return fmt.Errorf("mirror = %q is not a URL", c.Mirror)
	}
	if _, err := c.templateCache(); err != nil {
		return fmt.Errorf("template_cache_size: %w", err)
	}
	if _, err := c.Spares.bytes(); err != nil {
		return fmt.Errorf("spares.memory: %w", err)
	}
	if err := c.VMDefaults.check(); err != nil {
		return err
	}
	return c.Network.check()
}

// TemplateCacheBytes is what templates may take, -1 where the config does not
// say. c has passed Load.
func (c Config) TemplateCacheBytes() int64 {
	n, err := c.templateCache()
	if err != nil {
		return -1
	}
	return n
}

func (c Config) templateCache() (int64, error) {
	if c.TemplateCacheSize == "" {
		return -1, nil
	}
	return banger.ParseSize(c.TemplateCacheSize)
}

func oneOf(key, value string, known ...string) error {
	if value == "" {
		return nil
	}
	for _, k := range known {
		if value == k {
			return nil
		}
	}
	return fmt.Errorf("%s = %q is not one of %s", key, value, strings.Join(known, ", "))
}

func (v VMDefaults) check() error {
	if v.VCPU < 0 || v.VCPU > 255 {
		return fmt.Errorf("vm_defaults.vcpu = %d is not between 1 and 255", v.VCPU)
	}
	if _, err := v.memoryMiB(); err != nil {
		return fmt.Errorf("vm_defaults.memory: %w", err)
	}
	for key, size := range map[string]string{"disk_size": v.DiskSize, "system_overlay_size": v.SystemOverlaySize} {
		if size == "" {
			continue
		}
		if n, err := banger.ParseSize(size); err != nil {
			return fmt.Errorf("vm_defaults.%s: %w", key, err)
		} else if n <= 0 {
			return fmt.Errorf("vm_defaults.%s = %q is not a size", key, size)
		}
	}
	return nil
}

// memoryMiB is 0 when the key is not set.
func (v VMDefaults) memoryMiB() (int64, error) {
	switch m := v.Memory.(type) {
	case nil:
		return 0, nil
	case int64:
		if m > 0 {
			return m, nil
		}
	case string:
		if n, err := banger.ParseMemory(m); err != nil || n > 0 {
			return n, err
		}
	}
	return 0, fmt.Errorf("%v is not a size such as \"2G\"", v.Memory)
}

func (n Network) check() error {
	if n.DNSUpstream != "" {
		if _, err := netip.ParseAddrPort(n.DNSUpstream); err != nil {
			return fmt.Errorf("network.dns_upstream = %q is not address:port", n.DNSUpstream)
		}
	}
	for _, entry := range n.AllowPrivate {
		if _, err := netip.ParseAddr(entry); err == nil {
			continue
		}
		if _, err := netip.ParsePrefix(entry); err != nil {
			return fmt.Errorf("network.allow_private: %q is not an address or a network", entry)
		}
	}
	return n.checkAddresses()
}
