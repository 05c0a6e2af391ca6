// Tests the page when everything works: every open page shows an alert for each click, with
// pusher-js and with the fallback, by keyboard, and after a restart. The page is accessible.
package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pusher-sample/internal/pushertest"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// Each click in one of two tabs shows exactly one alert in each of them.
func TestBothTabsAlert(t *testing.T) {
	t.Parallel()
	for _, cdn := range []cdn{served, blocked, unresponsive} {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			app := start(t, "RATE_LIMIT=0")
			one, two := newTab(t, cdn), newTab(t, cdn)
			one.open(app.url, "connected")
			two.open(app.url, "connected")
			for range 3 {
				one.click()
				one.wantAlert()
				two.wantAlert()
			}
			two.click()
			one.wantAlert()
			two.wantAlert()
			if len(one.alerts)+len(two.alerts) > 0 {
				t.Error("more alerts than clicks")
			}
		})
	}
}

// The browser rejects a pusher-js that doesn't match the integrity hash in the page.
func TestTamperedLibraryIsNotRun(t *testing.T) {
	app := start(t)
	p := newTab(t, served)
	p.client = fallback
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, body := pushertest.Request(t, "GET", app.url+r.URL.Path)
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		io.WriteString(w, strings.Replace(body, "sha384-y", "sha384-z", 1))
	}))
	defer page.Close()
	p.open(page.URL, "connecting") // can't connect, because this proxy forwards no WebSockets
}

// The page reconnects by itself after the program has been restarted.
func TestPageReconnectsAfterRestart(t *testing.T) {
	t.Parallel()
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			t.Parallel()
			first := start(t)
			p := newTab(t, cdn)
			p.open(first.url, "connected")
			if err := first.stop(); err != nil {
				t.Fatal(err)
			}
			p.awaitState("lost")
			second := startOn(t, first.port())
			began := time.Now()
			p.awaitState("connected")
			if took := time.Since(began); took > 10*time.Second { // pusher-js alone takes 15 s
				t.Errorf("the page reconnected after %v", took)
			}
			if _, text := pushertest.Request(t, "POST", second.url+"/pusher"); text != "ok" {
				t.Fatal(text)
			}
			p.wantAlert()
		})
	}
}

// The page works under a path of a reverse proxy that removes the path.
func TestPathOfProxy(t *testing.T) {
	t.Parallel()
	app := start(t, "RATE_LIMIT=0", "TRUST_PROXY=1")
	address := freeAddress(t)
	startNginx(t, fmt.Sprintf(`server {
		listen %s;
		location /demo/ {
			proxy_pass %s/;
			proxy_http_version 1.1;
			proxy_set_header Host $http_host;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection "upgrade";
			proxy_set_header X-Forwarded-For $remote_addr;
			proxy_set_header X-Forwarded-Proto $scheme;
		}
	}`, address, app.url), address)
	for _, cdn := range bothClients {
		t.Run(cdn.String(), func(t *testing.T) {
			p := newTab(t, cdn)
			p.open("http://"+address+"/demo/?a=/b/", "connected")
			p.click()
			p.wantAlert()
			p.await("document.getElementById('problem').textContent === ''")
			if failed := p.didNotLoad(); failed != "" {
				t.Error(failed)
			}
		})
	}
}

// The button works with the keyboard alone.
func TestKeyboard(t *testing.T) {
	p := newTab(t, blocked)
	p.open(start(t).url, "connected")
	for range 10 { // there may be other elements before the button
		p.do(chromedp.KeyEvent("\t"))
		if evaluate[bool](p, "document.activeElement.matches('.push')") {
			break
		}
	}
	for _, key := range []string{"\r", " "} {
		p.await("document.activeElement.matches('.push:focus-visible')")
		p.do(chromedp.KeyEvent(key))
		p.wantAlert()
	}
}

// The page passes axe-core's rules in both color schemes, when connected and when refused.
func TestAccessibility(t *testing.T) {
	t.Parallel()
	requirePage(t)
	axe := npmFile(t, "axe-core/axe.min.js")
	upstream := pushertest.NewServer(t)
	working := start(t, "DYNO=web.1")
	refused := start(t, "PUSHER_URL="+strings.Replace(upstream.PusherURL, "testkey", "otherkey", 1))
	for _, scheme := range []string{"light", "dark"} {
		t.Run(scheme, func(t *testing.T) {
			p := newTab(t, blocked)
			if _, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}); err != nil {
				t.Fatal(err)
			}
			check := func() {
				t.Helper()
				p.do(chromedp.Evaluate[chromedp.Void](string(axe) + "; undefined"))
				p.do(chromedp.Evaluate[chromedp.Void]("axe.run().then((r) => { window.axeResult = r }); undefined"))
				p.await("!!window.axeResult")
				found, err := chromedp.Run(p.ctx, chromedp.Evaluate[string](`axeResult.passes.length < 10 ? 'fewer than 10 rules were checked' :
					axeResult.violations.map((v) => v.id + ': ' + v.nodes.map((n) => n.html + ' ' + n.failureSummary).join('\n')).join('\n')`))
				if err != nil || found != "" {
					t.Errorf("%v %s", err, found)
				}
			}
			p.open(working.url, "connected")
			p.click()
			p.wantAlert()
			p.awaitRest()
			check()
			p.open(refused.url, "refused")
			p.click() // fails
			p.await("document.getElementById('problem').textContent !== ''")
			check()
		})
	}
}
