"""A worker as an icon beside the clock.

model      what the icon is to show for what the worker says; knows no desktop
icons      the pictures
place      what both kinds of icon have in common
desktop    an icon by pystray: Windows, macOS, and Linux where GTK or AppIndicator can be had from Python
xorg       an icon on plain X11, with the menu (xmenu) that pystray does not have there
app        the loop that keeps model and icon together
"""
