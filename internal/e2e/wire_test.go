// Proves what a browser's JavaScript sees of the embedded server's WebSockets.
package e2e

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
)

// A browser reports code 1006 for a close that is not exactly as RFC 6455 has it.
func TestCloseCodesInChromium(t *testing.T) {
	script, err := os.ReadFile("testdata/close-codes.js")
	if err != nil {
		t.Fatal(err)
	}
	p := start(t)
	page := newTab(t, blocked)
	page.open(p.url, "connected")
	page.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf("(%s)(location.origin, 'local').then((text) => { window.result = text; }); undefined", script)))
	page.await("!!window.result")
	if got, err := chromedp.Run(page.ctx, chromedp.Evaluate[string]("window.result")); err != nil || got != "all closed as they should" {
		t.Errorf("%s %v", got, err)
	}
	page.do(chromedp.Evaluate[chromedp.Void]("window.last.then((text) => { window.stopped = text; }); undefined"))
	p.signal(syscall.SIGTERM)
	page.await("!!window.stopped")
	if got, err := chromedp.Run(page.ctx, chromedp.Evaluate[string]("window.stopped")); err != nil || got != `{"code":4200,"wasClean":true,"error":false}` {
		t.Errorf("at the stop: %s %v", got, err)
	}
}
