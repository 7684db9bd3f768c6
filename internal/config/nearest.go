package config

import (
	"strings"

	banger "github.com/banger-dev/banger"
)

// Keys returns every key that config.toml may hold, tables with a dot.
func Keys() []string {
	return []string{
		"default_image_name", "ssh_key_path", "qemu_bin", "driver", "accel",
		"require_confinement", "mirror", "template_cache_size", "spares.memory",
		"vm_defaults.vcpu", "vm_defaults.memory", "vm_defaults.disk_size",
		"vm_defaults.system_overlay_size", "vm_defaults.nat",
		"network.dns_upstream", "network.allow_private", "network.address_range", "network.dns_port",
	}
}

// Nearest returns the known key that is closest to key: by edits, where a key
// in the wrong table still finds its like.
func Nearest(key string) string {
	best, bestCost := "", int(^uint(0)>>1)
	for _, known := range Keys() {
		cost := banger.Edits(key, known)
		if last := banger.Edits(tail(key), tail(known)) + 1; last < cost {
			cost = last
		}
		if cost < bestCost {
			best, bestCost = known, cost
		}
	}
	return best
}

func tail(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }
