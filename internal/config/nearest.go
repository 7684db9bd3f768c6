package config

import "strings"

// Keys returns every key that config.toml may hold, tables with a dot.
func Keys() []string {
	return []string{
		"default_image_name", "ssh_key_path", "qemu_bin", "driver", "accel",
		"require_confinement", "mirror",
		"vm_defaults.vcpu", "vm_defaults.memory", "vm_defaults.disk_size",
		"vm_defaults.system_overlay_size", "vm_defaults.nat",
		"network.dns_upstream", "network.allow_private",
	}
}

// Nearest returns the known key that is closest to key: by edits, where a key
// in the wrong table still finds its like.
func Nearest(key string) string {
	best, bestCost := "", int(^uint(0)>>1)
	for _, known := range Keys() {
		cost := distance(key, known)
		if last := distance(tail(key), tail(known)) + 1; last < cost {
			cost = last
		}
		if cost < bestCost {
			best, bestCost = known, cost
		}
	}
	return best
}

func tail(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// distance is the Levenshtein distance in bytes. Long keys are cut: only near
// ones matter.
func distance(a, b string) int {
	if len(a) > 64 {
		a = a[:64]
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
